"""Whether attacks have gradients to follow: counted where they are few, refused where there are none."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import APGD, CW, FAB, PGD, Square, VirtualAdversarial
from keras_robust.evaluation import (
    AutoAttack,
    attack_run,
    epsilon_curve,
    iteration_curve,
    masking_checks,
    transfer_matrix,
)

BALL = kr.Linf(0.1)
LEVELS = np.linspace(0.2, 0.49, 40).astype(np.float32)
IMAGES = LEVELS[:, None, None, None] * np.ones((1, 2, 2, 1), np.float32)
LABELS = np.zeros(40, np.int64)
ROBUST = (LEVELS < 0.4).mean()


def honest(x):
    mean = tf.reduce_mean(x, axis=(1, 2, 3))
    return 10 * tf.stack([0.5 - mean, mean - 0.5], axis=1)


def on_host(x):
    """The same, computed outside of TensorFlow, as by a LiteRT interpreter: TensorFlow's gradient is the scalar 0."""
    logits = tf.py_function(lambda images: honest(images).numpy(), [x], tf.float32)
    return tf.ensure_shape(logits, (None, 2))


def saturated(x):
    """Its cross-entropy is exactly flat in float32 for all images here."""
    return 1e5 * honest(x)


def hidden_below(level):
    """A classifier without a gradient for darker images."""

    def model_fn(x):
        dark = tf.reduce_mean(x, axis=(1, 2, 3), keepdims=True) < level
        return honest(tf.where(dark, tf.stop_gradient(x), x))

    return model_fn


def evaluate(model, attacks, **options):
    return kr.evaluate(model, (IMAGES, LABELS), attacks, verbose=False, **{"batch_size": 16, **options})


STANDSTILL = {
    "PGD": lambda: evaluate(on_host, PGD(BALL)),
    "APGD": lambda: evaluate(on_host, APGD(BALL, steps=5)),
    "FAB": lambda: evaluate(on_host, FAB(BALL, targets=1)),
    "FAB of all classes": lambda: evaluate(on_host, FAB(BALL)),
    "virtual": lambda: evaluate(on_host, VirtualAdversarial(kr.L2(0.1))),
    "one of a list": lambda: evaluate(on_host, [Square(BALL, queries=5000), PGD(BALL)]),
    "AutoAttack": lambda: evaluate(on_host, AutoAttack(BALL)),
    "source": lambda: evaluate(honest, PGD(BALL), source=on_host),
    "iterations": lambda: iteration_curve(on_host, (IMAGES, LABELS), PGD(BALL), (1, 2), verbose=False),
    "epsilons": lambda: epsilon_curve(on_host, (IMAGES, LABELS), PGD(BALL), (0.1, 1.0), verbose=False),
    "matrix": lambda: transfer_matrix({"a": honest, "b": on_host}, (IMAGES, LABELS), PGD(BALL), verbose=False),
    "images": lambda: kr.evaluation.large_epsilon_images(on_host, (IMAGES, LABELS), PGD(BALL)),
}


@pytest.mark.parametrize("name", STANDSTILL)
def test_an_attack_without_any_gradient_is_refused(name):
    with pytest.raises(ValueError, match=r"(?s)need gradients.*py_function.*Square.*`source=`.*Received: on_host"):
        STANDSTILL[name]()


@pytest.mark.graph
def test_what_the_refusal_proposes_works():
    assert evaluate(on_host, Square(BALL, queries=100)).robust_accuracy == pytest.approx(ROBUST, abs=0.05)
    assert evaluate(on_host, PGD(BALL, steps=5), source=honest).robust_accuracy == ROBUST
    checks = {check.name: check for check in masking_checks(on_host, (IMAGES, LABELS), BALL, batch_size=40)}
    assert checks["zero_gradients"].value == 1
    assert checks["gradient_free_beats_gradient"].suspicious


def test_a_flat_loss_is_refused_and_another_objective_is_not():
    """Some images are misclassified at the random start, where the loss is steep: they need no gradient."""
    with pytest.raises(ValueError, match=r"flat in float32, use objective='margin'.*attacked by PGD-10"):
        evaluate(saturated, PGD(BALL))
    report = evaluate(saturated, PGD(BALL, objective="margin"))
    assert report.robust_accuracy == ROBUST
    assert report.record["details"][PGD(BALL, objective="margin").name]["without_gradient"] == 0


def test_of_a_suite_one_attack_with_gradients_is_enough(monkeypatch):
    first, second = PGD(BALL, random_start="none"), APGD(BALL, steps=10, objective="margin")
    monkeypatch.setattr(AutoAttack, "attacks_for", lambda self, classes: {"first": first, "second": second})
    with pytest.warns(UserWarning, match="first had no gradient to follow.* for 100.0 % of the examples"):
        report = evaluate(saturated, AutoAttack(BALL), checks=False)
    assert report.attacks == {"first": 1.0, "second": ROBUST}
    assert report.record["details"]["first"]["without_gradient"] == 1


@pytest.mark.parametrize(
    "attack", [PGD(BALL, random_start="none"), APGD(BALL, steps=5), Square(BALL, queries=5)], ids=str
)
def test_the_share_without_gradients_is_recorded(attack):
    report = evaluate(honest, attack)
    share = report.record["details"][attack.name]["without_gradient"]
    assert share == (None if isinstance(attack, Square) else 0)


@pytest.mark.parametrize(("few", "warned"), [(2, False), (3, True)])
def test_more_than_a_twentieth_without_gradients_is_said(few, warned, tmp_path):
    """From the clean image the darkest 2 or 3 of 40 cannot be moved."""
    attack = PGD(BALL, random_start="none")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = evaluate(hidden_below(float(LEVELS[few] - 0.003)), attack)
    assert report.record["details"][attack.name]["without_gradient"] == few / 40
    report.save(tmp_path)
    texts = [str(report), (tmp_path / "report.md").read_text(), (tmp_path / "index.html").read_text()]
    said = [f"for {100 * few / 40:.1f} % of the examples that it" in text for text in texts]
    assert said == [warned] * 3
    assert any("no gradient to follow" in str(warning.message) for warning in caught) is warned


def test_an_example_that_is_broken_at_the_start_needs_no_gradient():
    """The margin of `CW` stops growing at 0; from a random start about half of the images just below 0.5 are there."""
    images, labels = np.full((200, 1, 1, 1), 0.499, np.float32), np.zeros(200, np.int64)
    report = kr.evaluate(honest, (images, labels), CW(BALL, steps=3), verbose=False)
    assert report.record["details"][CW(BALL, steps=3).name]["without_gradient"] == 0


def test_a_look_costs_one_gradient_per_example(monkeypatch):
    rows, by_batch = [], attack_run.by_batch

    def spy(function, values, batch_size):
        if "FirstGradient" in function.__qualname__:
            rows.append(len(values[0]))
        return by_batch(function, values, batch_size)

    monkeypatch.setattr(attack_run, "by_batch", spy)
    evaluate(honest, PGD(BALL))
    assert sum(rows) == 40

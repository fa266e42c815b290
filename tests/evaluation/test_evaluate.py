"""`kr.evaluate` against closed forms on linear classifiers, and in every form that a model can have."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.core import execution
from keras_robust.core.serialization import PACKAGE
from keras_robust.evaluation import attack_run

EPSILON = 0.05
ATTACK = kr.attacks.PGD(kr.Linf(EPSILON), steps=5, step_size=EPSILON)


def linear(kernel):
    classifier = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    classifier.set_weights([kernel, np.zeros(2, np.float32)])
    return classifier


def truly_robust(images, labels, kernel):
    """Per example: a linear margin falls by at most epsilon times the L1 norm of the difference of the weights."""
    difference = (kernel[:, 1] - kernel[:, 0]) * np.where(labels, 1, -1)[:, None]
    margins = (images.reshape(len(images), -1) * difference).sum(1)
    return margins > 0, margins > EPSILON * np.abs(difference).sum(1)


def evaluate(*args, **kwargs):
    return kr.evaluate(*args, verbose=False, **kwargs)


@pytest.mark.parametrize("batch_size", [7, 100, 128])
@pytest.mark.parametrize("one_hot", [False, True])
def test_linear_classifier_is_robust_where_its_margin_is_wide(problem, batch_size, one_hot):
    images, labels, kernel = problem
    right, robust = truly_robust(*problem)
    assert 0.1 < robust.mean() < 0.8
    given = keras.utils.to_categorical(labels, 2) if one_hot else labels
    report = evaluate(linear(kernel), (images, given), ATTACK, batch_size=batch_size)
    assert report.clean_accuracy == right.mean()
    assert report.robust_accuracy == robust.mean() == report.attacks[ATTACK.name]
    assert report.record["details"][ATTACK.name]["robust"] == robust.tolist()
    assert report.record["labels"] == labels.tolist()
    assert report.checks == []


def test_every_form_of_model_gives_the_same_report(problem, tmp_path):
    images, labels, kernel = problem
    classifier = linear(kernel)
    model = kr.AdversarialTraining(classifier, ATTACK)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    kr.export(model, tmp_path / "exported")
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(30)
    forms = {
        "classifier": classifier,
        "robust model": model,
        "file": str(tmp_path / "model.keras"),
        "path": tmp_path / "model.keras",
        "saved model": tmp_path / "exported",
        "function": lambda x: tf.reshape(x, (-1, 16)) @ kernel,
    }
    reports = {name: evaluate(form, dataset, ATTACK) for name, form in forms.items()}
    expected = truly_robust(*problem)[1].tolist()
    assert {name: r.record["details"][ATTACK.name]["robust"] for name, r in reports.items()} == dict.fromkeys(
        forms, expected
    )
    for name, path in {"saved model": tmp_path / "exported", "file": tmp_path / "model.keras"}.items():
        described = reports[name].record["model"]
        assert (described["source"], described["parameters"]) == (str(path), 34)
    digests = {name: report.record["model"]["sha256"] for name, report in reports.items()}
    assert digests.pop("function") is None
    assert len(set(digests.values())) == 1


def test_a_model_with_a_classifier_inside_is_evaluated_as_a_whole(problem):
    """The inner classifier is behind an inversion of the image, so that its margins have the other sign."""
    images, labels, kernel = problem
    classifier = linear(kernel)
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, classifier(1 - inputs))
    model.classifier = classifier
    logits = model.predict(images, verbose=0)
    expected = (logits.argmax(1) == labels).mean()
    assert expected != (classifier.predict(images, verbose=0).argmax(1) == labels).mean()
    assert evaluate(model, (images, labels), ATTACK).clean_accuracy == expected


def test_robust_accuracy_is_the_worst_case_per_example(problem):
    """An attack that flips even examples and one that flips odd ones leave half each, together nothing."""
    images, labels, _ = problem
    even = np.arange(100) % 2 == 0
    images = np.where(even[:, None, None, None], 0.25, 0.75).astype(np.float32) * np.ones_like(images)
    labels = even.astype(np.int64)

    def model_fn(x):
        level = tf.reduce_mean(x, axis=(1, 2, 3))
        return tf.stack([level - 0.5, 0.5 - level], axis=1)

    attacks = [_Shift(kr.Linf(0.5), 0.5, "up"), _Shift(kr.Linf(0.5), -0.5, "down")]
    report = evaluate(model_fn, (images, labels), attacks)
    assert report.clean_accuracy == 1.0
    assert report.attacks == {"up": 0.5, "down": 0.5}
    assert report.robust_accuracy == 0.0


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class _Shift(kr.attacks.Attack):
    """Adds a constant, whatever epsilon is."""

    threat_model: kr.core.ThreatModel
    shift: float
    label: str = "shift"
    restarts: int = 1

    @property
    def name(self):
        return self.label

    def __call__(self, model_fn, images, labels, seed, targets=None):
        return self.threat_model.clip(images + self.shift)


def test_an_attack_that_leaves_its_ball_is_refused(problem):
    images, labels, kernel = problem
    with pytest.raises(ValueError, match=r"left its threat model.*distance 0.1"):
        evaluate(linear(kernel), (images, labels), _Shift(kr.Linf(0.05), 0.1))


def test_black_box_examples_are_crafted_on_the_source(problem):
    """The source ignores what the model looks at, so nothing transfers: the robust accuracy is the clean one."""
    images, _, kernel = problem
    left, right = kernel.copy(), kernel.copy()
    left[8:], right[:8] = 0, 0
    left[:8] -= left[:8].mean(0)
    labels = (images.reshape(100, 16) @ left).argmax(1)
    report = evaluate(linear(left), (images, labels), FROM_CLEAN, source=linear(right))
    assert report.robust_accuracy == report.clean_accuracy == 1
    assert evaluate(linear(left), (images, labels), FROM_CLEAN).robust_accuracy < report.robust_accuracy
    assert report.record["black_box_source"]


def test_a_model_as_its_own_source_is_the_white_box(problem):
    images, labels, kernel = problem
    classifier = linear(kernel)
    report = evaluate(classifier, (images, labels), FROM_CLEAN, source=classifier)
    assert report.record["black_box_source"] is None


FROM_CLEAN = kr.attacks.BIM(kr.Linf(EPSILON), steps=2)


def test_broken_examples_leave_between_restarts(problem, monkeypatch):
    """The second restart attacks only what the first left; examples wrong from the start are never attacked."""
    images, labels, kernel = problem
    right, robust = truly_robust(*problem)
    rows = []
    by_batch = attack_run.by_batch

    def spy(function, values, batch_size):
        rows.append(len(tf.nest.flatten(values)[0]))
        return by_batch(function, values, batch_size)

    monkeypatch.setattr(attack_run, "by_batch", spy)
    report = evaluate(linear(kernel), (images, labels), dataclasses.replace(ATTACK, restarts=2))
    looked_at, started, *rest = rows  # a look whether there is a gradient comes first
    assert looked_at == started == right.sum() == next(iter(report.record["details"].values()))["attacked"]
    assert rest[0::2] == rest[1::2] == [right.sum(), robust.sum()]


def test_restarts_draw_anew():
    """An attack of tiny steps stays at its random start: two restarts cover more than one."""
    images = np.full((200, 1, 1, 1), 0.5, np.float32)

    def flat_with_holes(x):
        value = tf.reshape(x, (-1, 1))
        return tf.concat([tf.zeros_like(value), tf.sign(value - 0.6) + 1e-6 * value], axis=1)

    labels = np.zeros(200, np.int64)
    left = [
        evaluate(
            flat_with_holes,
            (images, labels),
            kr.attacks.PGD(kr.Linf(0.2), steps=1, step_size=1e-6, restarts=restarts),
        ).robust_accuracy
        for restarts in (1, 2, 3)
    ]
    np.testing.assert_allclose(left, [0.75, 0.75**2, 0.75**3], atol=0.1)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_images_of_other_precision_are_attacked_in_float32(problem, dtype):
    images, labels, kernel = problem
    images = tf.cast(images, dtype).numpy()
    attacks = [ATTACK, kr.attacks.APGD(kr.Linf(EPSILON), steps=5)]
    report = evaluate(linear(kernel), (images, labels), attacks)
    robust = truly_robust(images.astype(np.float32), labels, kernel)[1].tolist()
    assert [detail["robust"] for detail in report.record["details"].values()] == [robust, robust]
    assert report.samples["attacked"].dtype == np.float32


def test_an_attack_without_restarts_can_be_evaluated(problem):
    """Of two classes the divergence grows fastest along the difference of the weights, up or down."""
    images, labels, kernel = problem
    right, _ = truly_robust(*problem)
    attack = kr.attacks.VirtualAdversarial(kr.L2(0.3))
    report = evaluate(linear(kernel), (images, labels), attack)
    difference = np.linalg.norm(kernel[:, 1] - kernel[:, 0])
    margins = np.abs(images.reshape(100, -1) @ (kernel[:, 1] - kernel[:, 0]))
    robust = np.array(report.record["details"][attack.name]["robust"])
    assert (robust[right & (margins > 0.3 * difference)]).all()
    assert 0 < robust.mean() < right.mean()
    assert report.record["details"][attack.name]["restarts"] == 1


def test_a_prediction_that_is_not_finite_is_wrong(problem):
    images, labels, _ = problem
    report = evaluate(lambda x: tf.reduce_sum(x, (1, 2))[:, :1] * [[float("nan"), 1.0]], (images, labels), FROM_CLEAN)
    assert report.clean_accuracy == 0


def test_the_seed_decides_the_draws(problem):
    images, labels, kernel = problem
    weak = kr.attacks.PGD(kr.Linf(EPSILON), steps=1, step_size=EPSILON / 2)
    runs = [evaluate(linear(kernel), (images, labels), weak, seed=seed) for seed in (1, 1, 2)]
    robust = [run.record["details"][weak.name]["robust"] for run in runs]
    assert robust[0] == robust[1] != robust[2]


def test_low_precision_attack_is_judged_in_full_precision(problem):
    images, labels, kernel = problem
    attack = dataclasses.replace(ATTACK, compute_dtype="bfloat16")
    report = evaluate(linear(kernel), (images, labels), attack)
    np.testing.assert_allclose(report.robust_accuracy, truly_robust(*problem)[1].mean(), atol=0.03)


@pytest.mark.parametrize("pays", [False, True])
def test_the_record_says_which_dtype_the_machine_has_chosen(problem, pays, monkeypatch):
    """And the results are those of that dtype."""
    images, labels, kernel = problem
    monkeypatch.setattr(execution, "bfloat16_pays", lambda: pays)
    chosen = "bfloat16" if pays else "float32"
    automatic, named = (
        evaluate(linear(kernel), (images, labels), dataclasses.replace(ATTACK, compute_dtype=dtype)).record
        for dtype in ("auto", chosen)
    )
    (name,) = automatic["attacks"]
    assert chosen in name
    assert automatic["details"][name]["settings"]["config"]["compute_dtype"] == "auto"
    assert automatic["details"][name]["predictions"] == named["details"][name]["predictions"]


def test_a_classifier_in_low_precision_is_warned_of(problem):
    """1 + 2**-9 is 1 in bfloat16: its own gradient is rounded, and an attack in float32 is not."""
    images, labels, kernel = problem
    classifier = linear(kernel)
    classifier.layers[-1].dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    with pytest.warns(UserWarning, match=f"computes in bfloat16.*Received: {ATTACK.name[:5]}"):
        evaluate(classifier, (images, labels), ATTACK)
    precise = dataclasses.replace(ATTACK, compute_dtype="float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = evaluate(classifier, (images, labels), precise)
        evaluate(classifier, (images[:8], labels[:8]), kr.attacks.Square(kr.Linf(EPSILON), queries=5))  # no gradient
    np.testing.assert_allclose(report.robust_accuracy, truly_robust(*problem)[1].mean(), atol=0.03)


def test_evaluating_again_and_again_does_not_make_tensorflow_warn(problem, tensorflow_warnings):
    images, labels, kernel = problem
    for epsilon in np.linspace(0.01, 0.08, 8):
        evaluate(linear(kernel), (images[:6], labels[:6]), kr.attacks.PGD(kr.Linf(epsilon), steps=2), checks=False)
    assert not tensorflow_warnings

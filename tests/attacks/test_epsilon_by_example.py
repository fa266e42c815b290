"""One epsilon per example, as an argument of the compiled attack: each is attacked as with that epsilon alone."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from cases import rest_slow

from keras_robust.attacks import (
    APGD,
    BIM,
    CW,
    FAB,
    FGSM,
    PGD,
    RFGSM,
    SPSA,
    HopSkipJump,
    Square,
    VirtualAdversarial,
    as_model_fn,
)
from keras_robust.core import L1, L2, Linf
from keras_robust.core.serialization import replace_unchecked
from keras_robust.core.threat_models import ThreatModel

BALLS = {"linf": Linf(0.1), "l2": L2(0.6), "l1": L1(4.0)}
EVERY_NORM = {
    "PGD": lambda ball: PGD(ball, steps=3, restarts=2),
    "APGD": lambda ball: APGD(ball, steps=5, restarts=2),
    "FAB-T": lambda ball: FAB(ball, steps=3, targets=2, restarts=2),
    "Square": lambda ball: Square(ball, queries=12, restarts=2),
}
CASES = {f"{name} {norm}": make(ball) for name, make in EVERY_NORM.items() for norm, ball in BALLS.items()}
LINF, L_2, L_1 = BALLS.values()
CASES |= {
    "PGD with steps of its own": PGD(L_2, steps=3, step_size=0.2),
    "PGD from noise": PGD(L_1, steps=3, random_start="normal", start_radius=0.5),
    "PGD at a random class": PGD(LINF, steps=3, target="random"),
    "FGSM": FGSM(LINF),
    "RFGSM": RFGSM(LINF),
    "BIM": BIM(L_2, steps=3),
    "CW": CW(LINF, steps=3),
    "APGD-T": APGD(LINF, steps=5, objective="dlr", targeted=2),
    "APGD in larger radii": APGD(L_1, steps=8, larger_radii=True),
    "FAB": FAB(LINF, steps=4),
    "SPSA linf": SPSA(LINF, steps=3, samples=8),
    "SPSA l2": SPSA(L_2, steps=3, samples=8),
    "HopSkipJump": HopSkipJump(L_2, queries=200, samples=20),
    "VirtualAdversarial": VirtualAdversarial(L_2),
}


@pytest.fixture
def compile_attack(conv_classifier, batch):
    """Compiles an attack on six images: with its own epsilon, or as a function of epsilons."""
    model_fn, images = as_model_fn(conv_classifier(5)), tf.constant(batch(6, classes=5)[0])
    labels = tf.argmax(model_fn(images), axis=1)

    def compile_one(attack, **options):
        def attack_all(epsilons=None):
            sized = attack if epsilons is None else attack.resized(epsilons)
            return sized(model_fn, images, labels, 3)

        compiled = tf.function(attack_all, autograph=False, **options)
        return lambda *epsilons: compiled(*(tf.constant(each, tf.float32) for each in epsilons)).numpy()

    compile_one.images = images
    return compile_one


def of_size(attack, epsilon):
    """The same attack written down for another epsilon: what is in its units is in proportion."""
    resized = attack.resized(float(epsilon))
    ball = dataclasses.replace(attack.threat_model, epsilon=float(epsilon))
    lengths = {name: getattr(resized, name) for name in ("step_size", "start_radius") if hasattr(resized, name)}
    return dataclasses.replace(attack, threat_model=ball, **lengths)


IN_GRAPH = {"PGD linf", "APGD l1", "FAB-T l2", "Square linf", "SPSA l2", "HopSkipJump", "VirtualAdversarial"}
"""One of each kind of attack, in which epsilons are no numbers while it is traced."""
EAGER = CASES.keys() - IN_GRAPH - {f"{name} {norm}" for name in EVERY_NORM for norm in BALLS}


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, marks=pytest.mark.graph) for case in sorted(IN_GRAPH)),
        *rest_slow(sorted(CASES.keys() - IN_GRAPH), EAGER),
    ],
)
def test_each_example_is_attacked_as_with_its_epsilon_alone(compile_attack, case):
    """The attack was made for another epsilon than any of the examples has."""
    attack, images = CASES[case], compile_attack.images
    own = np.float32(attack.threat_model.epsilon)
    run = compile_attack(of_size(attack, 0.7 * own))
    tolerance = 2e-6 * max(1.0, own)
    alone = run(np.full(6, own))
    np.testing.assert_allclose(alone, compile_attack(attack)(), atol=tolerance)
    epsilons = own * np.float32([0.0, 0.3, 1.0, 1.0, 0.3, 1.9])
    mixed = run(epsilons)
    np.testing.assert_allclose(mixed[2:4], alone[2:4], atol=tolerance)
    for epsilon in epsilons[[1, 5]]:
        rows = epsilons == epsilon
        np.testing.assert_allclose(mixed[rows], run(np.full(6, epsilon))[rows], atol=tolerance)
    distance = np.asarray(attack.threat_model.distance(mixed, images))
    assert distance[0] <= 1e-6
    assert isinstance(attack, FAB) or distance[5] > 1.2 * distance[1]  # FAB goes as far as it must
    assert (distance <= epsilons * (1 + 1e-5) + 1e-6).all()
    assert mixed.min() >= 0
    assert mixed.max() <= 1


@pytest.mark.xla
@pytest.mark.parametrize("case", ["PGD linf", "APGD l2"])
def test_xla_compiles_epsilons_as_arguments(compile_attack, case):
    epsilons = CASES[case].threat_model.epsilon * np.float32([0.0, 0.5, 1.0, 1.0, 0.5, 2.0])
    with_xla = compile_attack(CASES[case], jit_compile=True)(epsilons)
    np.testing.assert_allclose(with_xla, compile_attack(CASES[case])(epsilons), atol=2e-5)


def test_names_say_from_where_to_where():
    epsilons = np.float32([0.1, 0.2, 0.05])
    assert RFGSM(Linf(0.3)).resized(epsilons).name == (
        "PGD-1 (Linf 0.05 to 0.2, step 0.025 to 0.1, start sign, start radius 0.025 to 0.1)"
    )
    assert APGD(L2(1.0)).resized(np.float32([0.5, 0.5])).name == APGD(L2(0.5)).name


@pytest.mark.graph
def test_errors_name_an_attack_whose_epsilon_is_a_tensor(conv_classifier, batch):
    """As in a training step with a schedule of epsilon, or in an evaluation with epsilons."""
    images, labels = batch(4)

    @tf.function
    def run(epsilon):
        return APGD(Linf(0.1), steps=2, targeted=5).resized(epsilon)(as_model_fn(conv_classifier(3)), images, labels, 0)

    with pytest.raises(ValueError, match=r"APGD-T-2 \(Linf known at run time.* of at least 6 classes"):
        run(tf.fill((4,), 0.1))


def test_lengths_in_proportion_to_0_are_refused():
    with pytest.raises(ValueError, match=r"step_size grows in proportion to epsilon.*Received: attack=PGD\("):
        PGD(Linf(0.0), step_size=0.1).resized(0.2)
    assert PGD(Linf(0.0), steps=5).resized(0.2).resolved_step_size == pytest.approx(0.1)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5), L1(2.0)], ids=str)
def test_a_threat_model_has_a_radius_for_each_example(ball: ThreatModel):
    images = tf.constant(np.random.default_rng(0).uniform(size=(5, 4, 4, 2)), tf.float32)
    epsilons = [0.0, 0.02, 0.1, 0.5, 0.9]
    varied = replace_unchecked(ball, epsilon=tf.constant(epsilons))
    drawn, projected = varied.random_point(images, tf.constant([0, 5])), varied.project(1.0 - images, images)
    for row, epsilon in enumerate(epsilons):
        alone = replace_unchecked(ball, epsilon=epsilon)
        np.testing.assert_allclose(drawn[row], alone.random_point(images, tf.constant([0, 5]))[row], atol=1e-6)
        np.testing.assert_allclose(projected[row], alone.project(1.0 - images, images)[row], atol=1e-6)

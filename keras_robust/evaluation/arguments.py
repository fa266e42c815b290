"""Checks of what users pass to several measurements. Each raises a `ValueError` that names what was received."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core.checks import check_targets
from keras_robust.core.execution import compiled
from keras_robust.evaluation.gradients import loss_gradient
from keras_robust.evaluation.setting import Setting


def check_attacks(attacks: Any) -> dict[str, Attack]:
    """Returns attacks by name, from one attack or a sequence of them.

    Raises:
        ValueError: if there are none, one is no attack or listed twice, or their pixel ranges differ.
    """
    attacks = [attacks] if isinstance(attacks, Attack) else attacks
    if (
        not isinstance(attacks, list | tuple)
        or not attacks
        or not all(isinstance(attack, Attack) for attack in attacks)
    ):
        raise ValueError(
            f"attacks is an Attack, a list of them, or, for evaluate, a Suite. Received: attacks={attacks!r}"
        )
    names = [attack.name for attack in attacks]
    if len(set(names)) != len(names):
        raise ValueError(f"Each attack is listed once. Received: {names}")
    bounds = {attack.threat_model.bounds for attack in attacks}
    if len(bounds) > 1:
        raise ValueError(f"All attacks have one pixel range. Received: bounds {sorted(bounds)}")
    return dict(zip(names, attacks, strict=True))


def check_epsilons(epsilons: Any, attacks: Iterable[Attack], examples: int) -> np.ndarray | None:
    """Returns one epsilon per example, (examples,) float32, or None.

    Raises:
        ValueError: if they are not that, are outside of what the threat model allows, the attacks have several threat
            models, or an attack has lengths and an epsilon of 0.
    """
    if epsilons is None:
        return None
    attacks = list(attacks)
    balls = {attack.threat_model: None for attack in attacks}
    if len(balls) > 1:
        raise ValueError(
            "epsilons replace the epsilon of attacks of one threat model. "
            f"Received: attacks of {', '.join(map(str, balls))}"
        )
    values = np.asarray(epsilons)
    if values.shape != (examples,) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(
            f"epsilons are one finite number for each of the {examples} examples. "
            f"Received: epsilons of shape {values.shape} and dtype {values.dtype}"
        )
    values = values.astype(np.float32)
    (ball,) = balls
    for end in (values.min(), values.max()):
        dataclasses.replace(ball, epsilon=float(f"{end:.6g}"))
    for attack in attacks:
        attack.resized(values)
    return values


def check_given_targets(targets: Any, attacks: Iterable[Attack], labels: np.ndarray, classes: int) -> np.ndarray | None:
    """Returns the class that each example is to be classified as, (examples,) int32, or None.

    Raises:
        ValueError: if they are not that, one is the label, no attack takes them, or one needs them and there are none.
    """
    takers = [attack.name for attack in attacks if attack.aim == "given"]
    if targets is None and takers:
        raise ValueError(f"An attack towards given targets needs them. Received: targets=None for {', '.join(takers)}")
    if targets is not None and not takers:
        raise ValueError(
            "targets are for attacks that take them, such as PGD(target='given'). "
            f"Received: targets for {', '.join(attack.name for attack in attacks)}"
        )
    return None if targets is None else check_targets(targets, labels, classes)


def check_attack(attack: Any, kind: type[Attack] = Attack) -> None:
    """Raises `ValueError` unless `attack` is of a kind of attack."""
    if not isinstance(attack, kind):
        raise ValueError(
            f"attack is {kind.__name__}, such as PGD(Linf(0.3)). "
            f"Received: attack={attack!r} of type {type(attack).__name__}"
        )
    check_takes_no_targets(attack)


def check_takes_no_targets(attack: Attack) -> None:
    """Raises `ValueError` if an attack needs targets, of a measurement that has none."""
    if attack.aim == "given":
        raise ValueError(f"Given targets are for evaluate, with targets. Received: attack={attack!r}")


def check_fits(attacks: Iterable[Attack], setting: Setting) -> None:
    """Checks that attacks can run in a setting, before any of them does.

    Args:
        attacks: see `evaluate`.
        setting: who is attacked.

    Raises:
        ValueError: if an attack needs more classes, images of another shape, or another precision than there are.
    """
    for attack in attacks:
        setting.source.model_fn_for(attack.compute_dtype)
        attack.check_fits(setting.images.shape[1:], setting.classes)


def check_differentiable(setting: Setting) -> None:
    """Raises `ValueError` unless the source of attacks is differentiable in its images; it is traced, and not run."""
    model_fn = setting.source.model_fn_for(None)
    images = tf.TensorSpec((setting.batch_size, *setting.images.shape[1:]), tf.float32)
    labels = tf.TensorSpec((setting.batch_size,), tf.int32)
    gradient = compiled(lambda points, labels: loss_gradient(model_fn, points, labels))
    with setting.strategy.scope():
        gradient.get_concrete_function(images, labels)

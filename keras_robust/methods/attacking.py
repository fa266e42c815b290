"""Attacks and passes inside a training step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import APGD, PGD, Attack, as_model_fn
from keras_robust.core.execution import full_precision, uses_xla
from keras_robust.core.seeds import Tensor


def attack_classifier(
    attack: Attack,
    classifier: keras.Layer,
    images: Tensor,
    labels: Tensor,
    seed: Tensor,
    training: bool,
    compile_attack: bool | str,
) -> Tensor:
    """Returns attacked images, through which no gradient flows.

    Args:
        attack: see `Attack.perturb` for images, labels and seed.
        classifier: the attacked one.
        images: (batch, height, width, channels).
        labels: (batch,) or (batch, classes).
        seed: int32 of shape (2,).
        training: attack it in training mode.
        compile_attack: with XLA: True, False, or "auto" for where there is a GPU.
    """
    model_fn = as_model_fn(classifier, training=training, compute_dtype=attack.compute_dtype)

    def run(images: Tensor, labels: Tensor, seed: Tensor) -> Tensor:
        return attack(model_fn, images, labels, seed)

    if uses_xla(compile_attack):
        run = tf.function(run, jit_compile=True)
    return tf.stop_gradient(run(images, labels, seed))


def unpack_batch(data: Any) -> tuple[Any, Tensor, Tensor | None]:
    """Returns (images, labels, sample weights) of what a step reads; images of any floats in full precision."""
    images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    precise = tf.nest.map_structure(lambda x: tf.cast(x, full_precision()) if x.dtype.is_floating else x, images)
    return precise, labels, sample_weight


def apply_jointly(function: Callable[[Tensor], Any], inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Returns by name what `function` makes of the images of each name, from one call on all of them.

    Args:
        function: maps (batch, ...) images to a nest of tensors (batch, ...).
        inputs: images by name.
    """
    sizes = [tf.shape(images)[0] if images.shape[0] is None else images.shape[0] for images in inputs.values()]
    outputs = function(tf.concat(list(inputs.values()), axis=0))
    parts = [tf.split(tensor, sizes) for tensor in tf.nest.flatten(outputs)]
    return {
        name: tf.nest.pack_sequence_as(outputs, [part[index] for part in parts]) for index, name in enumerate(inputs)
    }


def with_published_defaults(
    attack: Any, *, objective: str | None = None, random_start: str | None = None, step_size: float | None = None
) -> Any:
    """Returns the attack as a method publishes it: with what was left to the default filled in.

    Args:
        attack: a `PGD` or `APGD`; anything else is returned as it is.
        objective: that it climbs where it was given none.
        random_start: of a `PGD` that was given none.
        step_size: of a `PGD` that was given neither step size nor objective. (Files of earlier versions have an
            objective in all attacks: these keep the step size that they trained with.)

    Raises:
        ValueError: if the attack as it was given, such as one from the clean image, does not go with the objective.
    """
    if not isinstance(attack, PGD | APGD):
        return attack
    changes: dict[str, Any] = {}
    if attack.objective is None:
        changes["objective"] = objective
    if isinstance(attack, PGD) and attack.random_start is None:
        changes["random_start"] = random_start
    if isinstance(attack, PGD) and attack.objective is None and attack.step_size is None:
        changes["step_size"] = step_size or None  # PGD refuses 0
    return dataclasses.replace(attack, **changes)


def check_attack(name: str, attack: Any) -> None:
    """Raises `ValueError` unless `attack`, of the argument `name`, is an `Attack`."""
    if not isinstance(attack, Attack):
        raise ValueError(f"{name} is an Attack such as PGD(Linf(0.3)). Received: {name}={attack!r}")


def check_same_bounds(attack: Attack | None, validation_attack: Attack | None) -> None:
    """Raises `ValueError` if both attacks are given and their pixels have different ranges."""
    ranges = [tuple(each.threat_model.bounds) for each in (attack, validation_attack) if each is not None]
    if len(set(ranges)) > 1:
        raise ValueError(
            "attack and validation_attack have one pixel range, that of the images. "
            f"Received: bounds={ranges[0]} of attack, bounds={ranges[1]} of validation_attack"
        )

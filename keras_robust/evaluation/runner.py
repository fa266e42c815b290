"""Runs one attack over all examples: fixed-size batches, one compilation, broken examples leave between restarts."""

import dataclasses
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_robust.attacks import Attack, IterativeAttack
from keras_robust.attacks.attack import ModelFn
from keras_robust.core import seeds
from keras_robust.core.checks import TOLERANCE
from keras_robust.core.seeds import Tensor

NOT_A_CLASS = -1
"""The prediction where a logit is not finite."""


@dataclasses.dataclass
class AttackResult:
    """What an attack did to each example.

    Attributes:
        attacked: images as last attacked: those that broke an example, for examples that are broken.
        predictions: (examples,) int, of the attacked images.
        robust: (examples,) bool: right on the clean image and under every restart.
        seconds: that it took, compilation included.
    """

    attacked: np.ndarray
    predictions: np.ndarray
    robust: np.ndarray
    seconds: float


def classify(logits: Tensor) -> Tensor:
    """Returns the predicted classes, int32 (batch,), or `NOT_A_CLASS` where a logit is not finite."""
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    return tf.where(finite, tf.argmax(logits, axis=1, output_type=tf.int32), NOT_A_CLASS)


def padded_batches(indices: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (indices of a batch, how many count): the last batch is filled up by repeating its last example."""
    for begin in range(0, len(indices), batch_size):
        chosen = indices[begin : begin + batch_size]
        yield np.pad(chosen, (0, batch_size - len(chosen)), mode="edge"), len(chosen)


def predict(model_fn: ModelFn, images: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the predicted classes of all images, int32 (examples,), and the logits of the first batch."""
    compiled = _compile(model_fn)
    logits = [
        compiled(tf.constant(images[chosen])).numpy()[:count]
        for chosen, count in padded_batches(np.arange(len(images)), batch_size)
    ]
    return classify(tf.concat(logits, axis=0)).numpy(), logits[0]


def run_attack(
    attack: Attack,
    source_fn: ModelFn,
    target_fn: ModelFn,
    images: np.ndarray,
    labels: np.ndarray,
    sparse_labels: np.ndarray,
    clean_predictions: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    verbose: bool,
) -> AttackResult:
    """Attacks every example that is right on its clean image, restart after restart, until it is broken.

    Args:
        attack: its `restarts` are run one by one (those of an `IterativeAttack` by itself); what is kept per example
            is the first that breaks it.
        source_fn: the function that the attack differentiates.
        target_fn: the function that is fooled; the same one in the white-box setting.
        images: float32 (examples, height, width, channels).
        labels: sparse or one-hot, as the attack gets them.
        sparse_labels: int (examples,).
        clean_predictions: int (examples,) of `target_fn` on `images`.
        batch_size: of the compiled function.
        seed: of the draws; they depend on the restart and the batch too.
        verbose: show a progress bar per restart.
    """
    start = time.perf_counter()
    single, restarts = attack, attack.restarts
    if isinstance(attack, IterativeAttack):
        restarts = 1  # it runs its restarts itself, the first of some from the clean image
    else:
        single = dataclasses.replace(attack, restarts=1)  # type: ignore[type-var]

    def step(batch: Tensor, batch_labels: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        attacked = single(source_fn, batch, batch_labels, draw)
        return attacked, classify(target_fn(attacked))

    compiled = _compile(step)
    result = AttackResult(images.copy(), clean_predictions.copy(), clean_predictions == sparse_labels, 0.0)
    for restart in range(restarts):
        left = np.flatnonzero(result.robust)
        bar = keras.utils.Progbar(len(left), verbose=int(verbose), unit_name="example", stateful_metrics=["robust"])
        for index, (chosen, count) in enumerate(padded_batches(left, batch_size)):
            draw = seeds.fold(seeds.as_seed(seed), restart, index)
            attacked, predictions = compiled(tf.constant(images[chosen]), tf.constant(labels[chosen]), draw)
            kept = chosen[:count]
            result.attacked[kept] = attacked.numpy()[:count]
            result.predictions[kept] = predictions.numpy()[:count]
            result.robust[kept] = result.predictions[kept] == sparse_labels[kept]
            _check_inside(attack, result.attacked[kept], images[kept])
            bar.add(count, [("robust", result.robust.mean())])
    result.seconds = time.perf_counter() - start
    return result


def _compile(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compiles a function, with XLA where there is a GPU (on CPU XLA makes attacks slower)."""
    return tf.function(function, jit_compile=bool(tf.config.list_logical_devices("GPU")))


def _check_inside(attack: Attack, attacked: np.ndarray, images: np.ndarray) -> None:
    """Raises `ValueError` if an attack left its threat model: its accuracy would mean nothing."""
    ball = attack.threat_model
    farthest = float(tf.reduce_max(ball.distance(attacked, images)))
    low, high = float(attacked.min()), float(attacked.max())
    allowed = ball.epsilon * (1 + 1e-4) + TOLERANCE
    if not (farthest <= allowed and ball.bounds[0] - TOLERANCE <= low and high <= ball.bounds[1] + TOLERANCE):
        raise ValueError(
            f"{attack.name} left its threat model: pixels in {list(ball.bounds)}, distance at most {ball.epsilon:g}. "
            f"Received: pixels from {low:g} to {high:g}, distance {farthest:g}"
        )

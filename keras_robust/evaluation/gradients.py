"""The input gradients of a classifier: of its loss, and of an attack where it starts."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.attacks.attack import ModelFn, value_and_gradient, with_whole_gradient
from keras_robust.core import seeds
from keras_robust.core.objectives import cross_entropy
from keras_robust.core.seeds import Tensor
from keras_robust.core.threat_models import flatten
from keras_robust.evaluation.execution import by_batch, compile_batch_function
from keras_robust.evaluation.ranks import rank_labels
from keras_robust.evaluation.setting import Setting

FEW_WITHOUT_GRADIENT = 0.05
"""So large a share of examples may have no gradient."""


def loss_gradient(model_fn: ModelFn, points: Tensor, labels: Tensor) -> Tensor:
    """Returns the gradient of each example's cross-entropy with respect to its image, of the shape of `points`.

    Args:
        model_fn: maps images to logits (batch, classes).
        points: (batch, height, width, channels) float32.
        labels: sparse (batch,) or one-hot (batch, classes).

    Raises:
        ValueError: if the classifier is not differentiable in its images.
    """
    return value_and_gradient(lambda points: cross_entropy(labels, model_fn(points)), points)[1]


def is_usable(gradient: Tensor) -> Tensor:
    """Returns where a gradient (batch, ...) is finite and not all zero, bool (batch,)."""
    gradient = flatten(gradient)
    return tf.reduce_all(tf.math.is_finite(gradient), axis=1) & tf.reduce_any(gradient != 0, axis=1)


class FirstGradient:
    """Whether an attack has a gradient to follow: that of its objective, where it starts, in the source.

    A look costs one input gradient per example, once. An example that is misclassified where the attack starts needs
    none: a margin that stops growing there has none.

    Args:
        attack: one that follows gradients.
        setting: who is attacked.
    """

    def __init__(self, attack: Attack, setting: Setting) -> None:
        self._setting = setting
        self._seen: dict[tuple[int, bytes], tuple[np.ndarray, np.ndarray]] = {}
        source_fn = with_whole_gradient(setting.source.model_fn_for(attack.compute_dtype))

        def look(batch: tuple[Tensor, ...], seed: Tensor) -> tuple[Tensor, Tensor]:
            images, labels, sparse, *epsilons = batch
            sized = attack.resized(*epsilons) if epsilons else attack
            logits, gradient = sized.first_gradient(source_fn, images, labels, seed)
            usable, right = is_usable(gradient), rank_labels(logits, sparse) == 0
            return right & usable, right & ~usable

        self._look = compile_batch_function(look, setting.strategy, setting.compile_attack)

    def exists(self, examples: np.ndarray) -> bool:
        """Returns whether one of the examples, by their numbers, needs a gradient and has one, or none needs one."""
        any_stuck = False
        for moved, stuck in self._looks(examples):
            if moved.any():
                return True
            any_stuck |= bool(stuck.any())
        return not any_stuck

    def share_without(self, examples: np.ndarray) -> float:
        """Returns the share of the examples that need a gradient and have none."""
        stuck = sum(int(stuck.sum()) for _, stuck in self._looks(examples))
        return stuck / max(len(examples), 1)

    def _looks(self, examples: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields, batch after batch, which examples need a gradient and have one, and which need one and have none."""
        setting, batch_size = self._setting, self._setting.batch_size_for(len(examples))
        for number, begin in enumerate(range(0, len(examples), batch_size)):
            rows = examples[begin : begin + batch_size]
            key = (number, rows.tobytes())
            if key not in self._seen:
                arrays = (setting.images, setting.labels, setting.sparse_labels, setting.epsilons)
                values = tuple(array[rows] for array in arrays if array is not None)
                self._seen[key] = by_batch(self._with_seed(number), values, batch_size)
            yield self._seen[key]

    def _with_seed(self, number: int) -> Callable[[Any, int], Any]:
        seed = seeds.fold(seeds.as_seed(self._setting.seed), number)
        return lambda batch, _: self._look(batch, seed)


def check_gradients(
    attacks: Mapping[str, Attack], setting: Setting, *, together: bool = False
) -> dict[str, FirstGradient]:
    """Returns what tells the gradients of the attacks that follow some, having looked whether there are any.

    An attack without a gradient would leave all images as they are, and each classifier would seem to withstand it.

    Args:
        attacks: by name.
        setting: who is attacked.
        together: the attacks are judged together: it is enough that one has a gradient.

    Raises:
        ValueError: if an attack has no gradient for any example; of attacks judged together, if none has one.
    """
    followers = {name: FirstGradient(attack, setting) for name, attack in attacks.items() if attack.follows_gradients}
    examples = np.flatnonzero(setting.clean_ranks < setting.top_k)
    if together:
        without = [] if any(first.exists(examples) for first in followers.values()) else list(followers)
    else:
        without = [name for name, first in followers.items() if not first.exists(examples)]
    if not without:
        return followers
    raise ValueError(
        "Gradient attacks need gradients, and those of the classifier are zero or not finite for every example, where "
        "the attack starts: all images would stay as they are, and the classifier would seem robust. Where it is not "
        "differentiable, as with quantised inputs, rounding, LiteRT or code inside tf.py_function, use attacks without "
        "gradients (Square, SPSA, HopSkipJump), or craft on a differentiable classifier with `source=`. Where its "
        "logits are so large that the loss is flat in float32, use objective='margin' or 'dlr'. "
        f"Received: {setting.source.description}, attacked by {'; '.join(without)}"
    )

"""What every attack has in common.

x_adv = attack(classifier, images, labels)  # NumPy arrays, compiled and in batches
x_adv = attack(as_model_fn(classifier), images, labels, seed)  # TensorFlow, inside a function of one's own
"""

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from keras_robust.attacks.input_gradient import value_and_gradient
from keras_robust.attacks.model_fn import ModelFn, as_model_fn
from keras_robust.core import ThreatModel, seeds
from keras_robust.core.checks import check_images, check_integer, check_labels, check_logits, check_targets
from keras_robust.core.compiled import by_batch, compiled, uses_xla
from keras_robust.core.objectives import margin
from keras_robust.core.precision import resolve_compute_dtype
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import Serializable

__all__ = ["LENGTHS", "Attack", "ModelFn", "changed"]

LENGTHS = ("step_size", "start_radius")
"""Settings of attacks that grow with epsilon, where they are not None."""

LATER_BATCH = 2**30
"""Folded into the seed of a later batch, before its number: no attack folds it."""


class Attack(Serializable):
    """Base class of attacks: immutable, serialisable by Keras, pure TensorFlow.

    A subclass is a frozen dataclass with a `threat_model`, a `name` for reports and `perturb`. One that uses logits
    alone says so by `follows_gradients = False`: evaluations refuse other attacks where a classifier has no gradients.
    """

    follows_gradients: ClassVar[bool] = True
    threat_model: ThreatModel
    compute_dtype: str | None = None
    restarts: int = 1

    @property
    def name(self) -> str:
        """A name for tables that says what the attack does, such as "PGD-40 (Linf 0.3, step 0.01)"."""
        raise NotImplementedError

    @property
    def resolved_compute_dtype(self) -> str | None:
        """`compute_dtype`, with the one that is faster on this machine for "auto"."""
        return resolve_compute_dtype(self.compute_dtype)

    @property
    def aim(self) -> str | None:
        """How each example gets the one class that it is attacked towards, such as "given" or "random", or None."""
        return None

    def __call__(
        self,
        model: keras.Layer | ModelFn,
        images: Any,
        labels: Any,
        seed: int | Tensor | None = None,
        targets: Any = None,
        *,
        batch_size: int = 128,
    ) -> Any:
        """Returns attacked images, inside the ball around `images` and inside the pixel range.

        With a Keras model, outside of `tf.function`, arguments are checked, and the attack runs in batches: with XLA
        where there is a GPU. Each call compiles it, which takes seconds: pass all images at once. Nothing of it is kept
        afterwards.

        With a function of images to logits, or inside `tf.function`, it is `perturb`: plain TensorFlow, on the one
        batch that it is given, with nothing checked.

        Args:
            model: a Keras model of images to logits (a `RobustModel`, too), or a differentiable function of them.
            images: (examples, ...) floats inside the threat model's bounds; with a Keras model an array or a tensor.
            labels: sparse (examples,) or one-hot (examples, classes).
            seed: an integer in [0, 2**31) or an int32 tensor of shape (2,); the same seed gives the same images. It may
                be left out with a Keras model, and is 0 then.
            targets: for attacks on given targets, sparse or one-hot, none of them the label.
            batch_size: with a Keras model, examples attacked at a time.

        Returns:
            A float32 NumPy array of the shape of `images` with a Keras model; otherwise a tensor of the shape and dtype
            of `images`, with no gradient.

        Raises:
            ValueError: if images, labels, targets, seed or classifier are not what they must be.
        """
        if isinstance(model, keras.Layer) and tf.executing_eagerly():
            return self._on_arrays(model, images, labels, 0 if seed is None else seed, targets, batch_size)
        if seed is None:
            raise ValueError("A function of images to logits is attacked with a seed of your own. Received: seed=None")
        return self.perturb(model, images, labels, seed, targets)

    def perturb(
        self,
        model_fn: ModelFn,
        images: Tensor,
        labels: Tensor,
        seed: int | Tensor,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Returns attacked images: the attack itself, in TensorFlow operations that compile with XLA.

        Args:
            model_fn: maps images to logits (batch, classes).
            images: (batch, ...) floats inside the threat model's bounds.
            labels: sparse (batch,) or one-hot (batch, classes).
            seed: an integer or an int32 tensor of shape (2,); the same seed gives the same images.
            targets: for attacks on given targets, sparse or one-hot.

        Returns:
            Of the shape and dtype of `images`, with no gradient.
        """
        raise NotImplementedError

    def aimed_at(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: int | Tensor, targets: Tensor | None = None
    ) -> Tensor:
        """Returns the classes that `perturb` goes towards so, (batch,) int32, where there is an `aim`."""
        raise NotImplementedError

    def check_fits(self, image_shape: tuple[int, ...], classes: int) -> None:
        """Raises `ValueError` if the attack cannot run: asked before anything is measured.

        Args:
            image_shape: of one image, such as (height, width, channels).
            classes: of the classifier.
        """

    def resolved(self) -> Self:
        """Returns this attack with what was left to the default said, as it runs where no method says otherwise."""
        return self

    def first_gradient(self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits and the gradient that the attack follows, where it starts: whether it has one to follow.

        Here it is that of the margin at a random point of the ball. A subclass whose objective can be flat where the
        margin is not, as the cross-entropy of large logits is, returns that of its own.

        Args:
            model_fn: see `perturb`.
            images: (batch, ...) floats inside the threat model's bounds.
            labels: sparse (batch,) or one-hot (batch, classes).
            seed: int32 tensor of shape (2,).

        Returns:
            (batch, classes) and, of the shape of `images`, the gradient.
        """

        def value(points: Tensor) -> tuple[Tensor, Tensor]:
            logits = model_fn(points)
            return margin(labels, logits), logits

        (_, logits), gradient = value_and_gradient(value, self.threat_model.random_point(images, seed))
        return logits, gradient

    def scaled(self, fraction: Tensor) -> Self:
        """Returns this attack with `fraction`, a float scalar in [0, 1], of its epsilon: a part of a training step.

        What is in `LENGTHS` is scaled, too.
        """
        lengths = {name: fraction * length for name, length in self._lengths().items()}
        return changed(
            self, threat_model=changed(self.threat_model, epsilon=fraction * self.threat_model.epsilon), **lengths
        )

    def resized(self, epsilon: float | Tensor) -> Self:
        """Returns this attack in balls of another size, with what is in `LENGTHS` in proportion to it.

        Args:
            epsilon: a number, or one for each example: (batch,) float32.

        Raises:
            ValueError: if there are lengths, and this attack's epsilon is 0.
        """
        own, lengths = self.threat_model.epsilon, self._lengths()
        if lengths and own == 0:
            raise ValueError(
                f"{next(iter(lengths))} grows in proportion to epsilon, which is above 0 in attack. "
                f"Received: attack={self!r}"
            )
        in_proportion = {name: length / own * epsilon for name, length in lengths.items()}
        return changed(self, threat_model=changed(self.threat_model, epsilon=epsilon), **in_proportion)

    def _lengths(self) -> dict[str, Any]:
        lengths = {name: getattr(self, name, None) for name in LENGTHS}
        return {name: length for name, length in lengths.items() if length is not None}

    def _on_arrays(
        self, classifier: keras.Layer, images: Any, labels: Any, seed: int | Tensor, targets: Any, batch_size: int
    ) -> np.ndarray:
        """Attacks all images, checked, in batches of one compiled function."""
        check_integer("batch_size", batch_size)
        images, labels, seed = np.asarray(images), np.asarray(labels), seeds.as_seed(seed)
        if not len(images):
            raise ValueError("There is nothing to attack. Received: 0 images")
        check_images(images, self.threat_model.bounds)
        images = images.astype(np.float32)
        batch_size = min(batch_size, len(images))
        logits = classifier(images[:batch_size], training=False)
        check_logits(logits, batch_size)
        check_labels(labels, logits.shape[1], len(images))
        arrays = {"images": images, "labels": labels}
        if (targets is not None) != (self.aim == "given"):
            raise ValueError(
                "targets go with an attack towards given targets, such as PGD(target='given'), and only with it. "
                f"Received: {self.name} and targets={'None' if targets is None else 'an array'}"
            )
        if targets is not None:
            arrays["targets"] = check_targets(targets, labels, logits.shape[1])
        model_fn = as_model_fn(classifier, compute_dtype=self.compute_dtype)

        def run(batch: dict[str, Tensor], seed: Tensor) -> Tensor:
            return self.perturb(model_fn, batch["images"], batch["labels"], seed, batch.get("targets"))

        attack_batch = compiled(run, jit_compile=uses_xla("auto"))

        def attack_rows(batch: dict[str, np.ndarray], index: int) -> np.ndarray:
            own = seed if index == 0 else seeds.fold(seed, LATER_BATCH, index)
            return attack_batch({name: tf.constant(values) for name, values in batch.items()}, own).numpy()

        return by_batch(attack_rows, arrays, batch_size)


def changed(instance: Any, **fields: Any) -> Any:
    """Returns a copy with other fields, which are not checked, as they may be tensors."""
    changed = copy.copy(instance)
    for name, value in fields.items():
        object.__setattr__(changed, name, value)
    return changed


def mean_of_passes(run: Callable[[], Any], passes: int) -> Any:
    """Returns the mean of so many calls of `run`, which differ where a classifier is random at inference.

    Args:
        run: returns a nest of float tensors, of the same shapes in each call.
        passes: at least 1; of a single one the results are returned as they are.
    """
    first = run()
    if passes == 1:
        return first

    def add(index: Tensor, total: Any) -> tuple[Tensor, Any]:
        return index + 1, tf.nest.map_structure(tf.add, total, run())

    _, total = tf.while_loop(lambda index, _: index < passes, add, (tf.constant(1), first))
    return tf.nest.map_structure(lambda tensor: tensor / passes, total)

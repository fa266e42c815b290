"""Who is attacked, on which examples: what every measurement starts from."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.checks import check_integer, check_labels, check_logits
from keras_robust.core.execution import check_compile_attack
from keras_robust.core.objectives import as_sparse
from keras_robust.core.seeds import Tensor
from keras_robust.evaluation.examples import check_shape, load_examples
from keras_robust.evaluation.execution import by_batch, compile_batch_function
from keras_robust.evaluation.ranks import classify, rank_labels
from keras_robust.evaluation.subject import Subject, as_subject

NEIGHBOURS = 0.01
"""By so much of the largest logit one may change with the other images of a batch: 16-bit floats are rounded to 0.4 %.
Batch normalisation in training mode changes logits by about as much as they are."""

DETERMINISTIC = 1e-4
"""Logits of the same images, of one compiled function, may differ by so much of the largest: more is no rounding."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Who is attacked, and how the examples are laid out.

    Attributes:
        target: the classifier that is to be fooled.
        source: the classifier that attacks differentiate: the same object in the white-box setting.
        images: (examples, height, width, channels) float32, or of another shape that the classifier takes.
        labels: sparse or one-hot, as attacks get them.
        sparse_labels: (examples,) int32.
        clean_logits: (examples, classes) float32, of the target.
        top_k: an example leaves when its label is not among the k largest logits.
        batch_size: of the compiled functions.
        seed: of all draws.
        strategy: over whose replicas a batch is spread.
        verbose: show progress bars.
        epsilons: (examples,) float32: the radius of each example's ball, in place of that of every attack; None leaves
            it to the attacks.
        targets: (examples,) int32: the classes that attacks towards given targets go to.
        compile_attack: with XLA: True, False, or "auto" for where there is a GPU.
        notes: sentences on what was seen in the classifier, for the report.
        change: by how much a logit of the target differs between two passes of the clean images, as a share of the
            largest logit.
    """

    target: Subject
    source: Subject
    images: np.ndarray
    labels: np.ndarray
    sparse_labels: np.ndarray
    clean_logits: np.ndarray
    top_k: int
    batch_size: int
    seed: int
    strategy: tf.distribute.Strategy
    verbose: bool
    epsilons: np.ndarray | None = None
    targets: np.ndarray | None = None
    compile_attack: bool | str = "auto"
    notes: tuple[str, ...] = ()
    change: float = 0.0

    @property
    def is_random(self) -> bool:
        """Whether the target is random at inference: each judgement is then a chance for the noise to break an example.

        What judges such a target judges it once, at the end of an attack, and says so.
        """
        return not self.change <= DETERMINISTIC

    @property
    def white_box(self) -> bool:
        """Whether attacks see the classifier that they are to fool."""
        return self.source is self.target

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.clean_logits.shape[1]

    @property
    def clean_predictions(self) -> np.ndarray:
        """(examples,) int32."""
        return classify(self.clean_logits).numpy()

    @property
    def clean_ranks(self) -> np.ndarray:
        """(examples,) int32: how many classes the target ranks above the label, unattacked."""
        return rank_labels(self.clean_logits, self.sparse_labels).numpy()

    @property
    def first_ranks(self) -> np.ndarray:
        """(examples,) int32, with which attacks begin: `clean_ranks`, or 0 for all examples of a random target.

        Whether such a target is right unattacked is a matter of chance: it would be one more judgement.
        """
        return np.zeros_like(self.clean_ranks) if self.is_random else self.clean_ranks

    def batch_size_for(self, examples: int) -> int:
        """Returns the batch size, or less where so few examples need less: at least a row for every replica."""
        replicas = self.strategy.num_replicas_in_sync
        return min(self.batch_size, max(1, -(-examples // replicas)) * replicas)

    def first(self, examples: int) -> Self:
        """Returns the setting of the first examples, without progress bars."""
        names = ("images", "labels", "sparse_labels", "clean_logits", "epsilons", "targets")
        parts = {name: getattr(self, name)[:examples] for name in names if getattr(self, name) is not None}
        batch_size = self.batch_size_for(len(parts["images"]))
        return dataclasses.replace(self, **parts, batch_size=batch_size, verbose=False)


def of_random(setting: Setting) -> str:
    """Returns what a verdict adds where the target is random at inference, or nothing."""
    if not setting.is_random:
        return ""
    return (
        f" The classifier is random at inference (logits of the same images differ by {setting.change:.2g} of the "
        "largest between two passes): each accuracy is that of one pass, and includes its noise."
    )


def first_failures(withstood: np.ndarray, values: Sequence[Any]) -> list[Any]:
    """Returns per example the first of rising values that it does not withstand, or None.

    Args:
        withstood: (values, examples) bool: an example that does not withstand a value withstands none of the larger.
        values: what belongs to each row.
    """
    return [values[count] if count < len(values) else None for count in withstood.sum(axis=0)]


def make_classify(
    subject: Subject, batch_size: int, strategy: tf.distribute.Strategy, compile_attack: bool | str = "auto"
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function of images (examples, ...) to float32 logits (examples, classes)."""
    model_fn = subject.model_fn_for(None)

    def run(batch: Tensor, seed: Tensor) -> Tensor:
        del seed
        return model_fn(batch)

    compiled, no_seed = compile_batch_function(run, strategy, compile_attack), np.zeros(2, np.int32)
    return lambda images: by_batch(lambda batch, _: compiled(batch, no_seed), images, batch_size)


def _largest_change(first: np.ndarray, second: np.ndarray) -> float:
    """Returns by how much a logit differs between two passes, as a share of the largest logit that is finite."""
    finite = np.isfinite(first) & np.isfinite(second)
    if not np.array_equal(np.isfinite(first), np.isfinite(second)):
        return float("inf")
    first, second = (np.where(finite, logits, 0.0) for logits in (first, second))
    return float(np.abs(first - second).max() / max(np.abs(first).max(), np.finfo(np.float32).tiny))


def check_other_model(
    model: Any, images: np.ndarray, classes: int, batch_size: int, compile_attack: bool | str = "auto"
) -> Subject:
    """Returns another classifier of the same examples, such as the source of transferred attacks.

    Raises:
        ValueError: if it does not take the images, or does not return logits of as many classes as the target.
    """
    subject = as_subject(model)
    check_shape(images, subject)
    logits = make_classify(subject, batch_size, tf.distribute.get_strategy(), compile_attack)(images)
    check_logits(logits, len(images))
    if logits.shape[1] != classes:
        raise ValueError(
            f"All models have the same classes, here {classes}. Received: {subject.description} with "
            f"{logits.shape[1]} classes"
        )
    return subject


def _note_of_neighbours(
    classify_images: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    logits: np.ndarray,
    bounds: tuple[float, float],
    batch_size: int,
) -> str | None:
    """Warns where the logits of an image depend on the others in its batch, and returns the warning.

    Half of a batch is classified again beside other images, black or white ones, whichever is further from it: one more
    forward pass, for classifiers that are not random.

    Args:
        classify_images: see `make_classify`.
        images: the first batch.
        logits: of these.
        bounds: smallest and largest pixel value.
        batch_size: of `classify_images`.
    """
    few = images[: max(1, len(images) // 2)]
    if batch_size == len(few):
        return None  # an image that is alone in its batch has no neighbours
    colour = max(bounds, key=lambda bound: abs(bound - float(few.mean())))
    others = np.full((batch_size - len(few), *few.shape[1:]), colour, few.dtype)
    again = classify_images(np.concatenate([few, others]))[: len(few)]
    change = _largest_change(logits[: len(few)], again)
    if change <= NEIGHBOURS:
        return None
    note = (
        f"The logits of an image depend on the other images in its batch: by {change:.2g} of the largest, where half "
        "of a batch was exchanged. Batch normalisation in training mode does that, as in a model that was exported "
        "without training=False. Attacks make other batches than users do, so these accuracies say little."
    )
    warnings.warn(note, stacklevel=4)
    return note


def make_setting(
    model: Any,
    dataset: Any,
    bounds: tuple[float, float],
    *,
    source: Any = None,
    top_k: int = 1,
    batch_size: int = 128,
    seed: int = 0,
    verbose: bool = True,
    compile_attack: bool | str = "auto",
) -> Setting:
    """Checks what is to be evaluated, and classifies the clean examples.

    Args:
        model: see `evaluate`.
        dataset: see `evaluate`.
        bounds: smallest and largest pixel value.
        source: see `evaluate`.
        top_k: see `evaluate`.
        batch_size: examples at a time, a multiple of the number of replicas of the current strategy.
        seed: of all draws, in [0, 2**31).
        verbose: show progress bars.
        compile_attack: see `evaluate`.

    Warns:
        UserWarning: if the images look divided by 255 and the bounds do not, or the logits of an image depend on the
            other images in its batch.

    Raises:
        ValueError: if anything is not what it must be; the message names what was received.
    """
    strategy = tf.distribute.get_strategy()
    check_integer("batch_size", batch_size)
    check_integer("top_k", top_k)
    check_compile_attack(compile_attack)
    if batch_size % strategy.num_replicas_in_sync:
        raise ValueError(
            f"batch_size is divisible by the {strategy.num_replicas_in_sync} replicas. Received: {batch_size}"
        )
    seeds.as_seed(seed)
    target = as_subject(model)
    images, labels = load_examples(dataset, bounds, target)
    first = images[:batch_size]
    classify_images = make_classify(target, batch_size, strategy, compile_attack)
    first_logits = classify_images(first)
    check_logits(first_logits, len(first))
    # Both passes of one compiled function: where TensorFlow's global seed is set, each new one draws the same again.
    logits, again = classify_images(images), classify_images(images)
    check_logits(logits, len(images))
    check_labels(labels, logits.shape[1], len(images))
    if top_k >= logits.shape[1]:
        raise ValueError(f"top_k is below the {logits.shape[1]} classes. Received: top_k={top_k}")
    change = _largest_change(logits, again)
    note = None
    if change <= DETERMINISTIC:
        note = _note_of_neighbours(classify_images, first, first_logits, bounds, batch_size)
    return Setting(
        target=target,
        source=target
        if source is None or source is model
        else check_other_model(source, first, logits.shape[1], batch_size, compile_attack),
        images=images,
        labels=labels,
        sparse_labels=as_sparse(labels).numpy(),
        clean_logits=logits,
        top_k=top_k,
        batch_size=batch_size,
        seed=seed,
        strategy=strategy,
        verbose=verbose,
        compile_attack=compile_attack,
        notes=() if note is None else (note,),
        change=change,
    )

"""What an attack maximises per example, which class it aims at, and the forms of labels.

Each objective is a pure function of logits, and a small class around it that an attack calls with a `Goal`. A larger
value always means a better attack. Logits are (batch, classes) float32; labels and targets are sparse
(batch,) integers or one-hot (batch, classes) floats; results are (batch,) float32.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE, Serializable

SUM_TOLERANCE = 1e-3
"""How much the sum of a soft label may differ from 1."""


def as_one_hot(labels: Tensor, num_classes: int | Tensor) -> Tensor:
    """Returns float32 (batch, classes) from sparse (batch,) or (batch, 1) indices, or from one-hot rows.

    An index that is not a class gives a row of NaN, where `tf.one_hot` gives zeros, so that training notices it.
    """
    labels = tf.convert_to_tensor(labels)
    if is_sparse(labels):
        sparse = as_sparse(labels)
        is_class = (sparse >= 0) & (sparse < num_classes)
        return tf.where(is_class[:, None], tf.one_hot(sparse, num_classes), float("nan"))
    return tf.cast(labels, tf.float32)


def as_sparse(labels: Tensor) -> Tensor:
    """Returns int32 class indices (batch,) from sparse or one-hot labels (the largest entry of soft ones)."""
    labels = tf.convert_to_tensor(labels)
    if is_sparse(labels):
        return tf.cast(tf.reshape(labels, (-1,)), tf.int32)
    return tf.argmax(labels, axis=1, output_type=tf.int32)


def is_sparse(labels: Any) -> bool:
    """Returns whether `labels`, of known rank, are class indices: of shape (batch,) or (batch, 1)."""
    return labels.shape.rank == 1 or labels.shape[-1] == 1


def label_accuracy(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns 1.0 where the largest logit is that of the label, (batch,); labels are sparse or one-hot."""
    return tf.cast(tf.equal(as_sparse(labels), tf.argmax(logits, axis=1, output_type=tf.int32)), tf.float32)


def labels_are_valid(labels: Tensor, num_classes: int | Tensor) -> Tensor:
    """Returns (batch,) bool: whether each label is a class, or a row of numbers >= 0 that add up to 1."""
    labels = tf.convert_to_tensor(labels)
    if is_sparse(labels):
        values = tf.cast(tf.reshape(labels, (-1,)), tf.float32)
        return (values >= 0) & (values < tf.cast(num_classes, tf.float32)) & (tf.floor(values) == values)
    rows = tf.cast(labels, tf.float32)
    return tf.reduce_all(rows >= 0, axis=1) & (tf.abs(tf.reduce_sum(rows, axis=1) - 1.0) <= SUM_TOLERANCE)


def cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns -sum_k y_k log softmax(z)_k."""
    one_hot = as_one_hot(labels, tf.shape(logits)[1])
    return tf.nn.softmax_cross_entropy_with_logits(one_hot, logits)


def margin(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns max_{k != y} z_k - z_y (Carlini & Wagner, 2017, f6): positive if the example is misclassified."""
    label, logits = as_sparse(labels), tf.convert_to_tensor(logits)
    of_label = _logit_of(label, logits)
    others = tf.where(tf.one_hot(label, tf.shape(logits)[1], True, False), logits.dtype.min, logits)
    return tf.reduce_max(others, axis=1) - of_label


def _logit_of(label: Tensor, logits: Tensor) -> Tensor:
    """Returns the logit of each label, (batch,). A label that is not a class is an error on CPU, and NaN elsewhere."""
    is_class = (label >= 0) & (label < tf.shape(logits)[1])
    return tf.where(is_class, tf.gather(logits, label, batch_dims=1), float("nan"))


def difference_of_logits_ratio(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns (max_{k != y} z_k - z_y) / (z_(1) - z_(3)), logits sorted (Croce & Hein, 2020, equation 6).

    It needs at least three classes. The smallest denominator is 1e-12, as in the original code.
    """
    ranked = tf.math.top_k(logits, 3).values
    return margin(labels, logits) / (ranked[:, 0] - ranked[:, 2] + 1e-12)


def targeted_difference_of_logits_ratio(labels: Tensor, targets: Tensor, logits: Tensor) -> Tensor:
    """Returns (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2), logits sorted (Croce & Hein, 2020, equation 7).

    It needs at least four classes.
    """
    ranked = tf.math.top_k(logits, 4).values
    of_label = _logit_of(as_sparse(labels), logits)
    of_target = _logit_of(as_sparse(targets), logits)
    return (of_target - of_label) / (ranked[:, 0] - 0.5 * (ranked[:, 2] + ranked[:, 3]) + 1e-12)


def kl_divergence(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """Returns KL(softmax(reference) || softmax(z)), in nats: what TRADES (Zhang et al., 2019) maximises."""
    log_reference = tf.nn.log_softmax(reference_logits)
    return tf.reduce_sum(tf.exp(log_reference) * (log_reference - tf.nn.log_softmax(logits)), axis=1)


class Goal(NamedTuple):
    """The goal of an attack: away from `labels`, or towards `targets` if there are any.

    `clean_logits` are the logits of the clean images, for objectives that need them.
    """

    labels: Tensor
    targets: Tensor | None = None
    clean_logits: Tensor | None = None


class Objective(Serializable):
    """Base class: `objective(logits, goal)` returns (batch,) values, which an attack maximises."""

    name: ClassVar[str]
    needs_clean_logits: ClassVar[bool] = False
    takes_targets: ClassVar[bool] = True
    min_classes: ClassVar[int] = 2

    @property
    def display_name(self) -> str:
        """The name with all settings that are not the default, for names of attacks."""
        return self.name

    def __call__(self, logits: Tensor, goal: Goal) -> Tensor:
        """Returns the value per example, (batch,) float32."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class CrossEntropy(Objective):
    """The cross-entropy of the labels, or minus that of the targets."""

    name: ClassVar[str] = "cross_entropy"

    def __call__(self, logits: Tensor, goal: Goal) -> Tensor:
        """Returns the value per example, (batch,) float32."""
        if goal.targets is None:
            return cross_entropy(goal.labels, logits)
        return -cross_entropy(goal.targets, logits)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Margin(Objective):
    """The margin of Carlini & Wagner (2017), which stops growing at `kappa`.

    Args:
        kappa: confidence, >= 0, in logit units, or None for no limit. Madry's evaluation of MNIST used 50, the code of
            "free" adversarial training 0. With 0, a misclassified example does not move further.
    """

    kappa: float | None = None
    name: ClassVar[str] = "margin"

    def __post_init__(self) -> None:
        if self.kappa is not None and not self.kappa >= 0:
            raise ValueError(f"kappa must be at least 0, or None. Received: kappa={self.kappa}")

    @property
    def display_name(self) -> str:
        """Such as "margin up to 50"."""
        return self.name if self.kappa is None else f"{self.name} up to {self.kappa:g}"

    def __call__(self, logits: Tensor, goal: Goal) -> Tensor:
        """Returns the value per example, (batch,) float32."""
        value = margin(goal.labels, logits) if goal.targets is None else -margin(goal.targets, logits)
        return value if self.kappa is None else tf.minimum(value, self.kappa)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class DifferenceOfLogitsRatio(Objective):
    """DLR, or targeted DLR for a given target (Croce & Hein, 2020). It ignores scale and shift of the logits."""

    name: ClassVar[str] = "dlr"
    min_classes: ClassVar[int] = 3

    def __call__(self, logits: Tensor, goal: Goal) -> Tensor:
        """Returns the value per example, (batch,) float32."""
        if goal.targets is None:
            return difference_of_logits_ratio(goal.labels, logits)
        return targeted_difference_of_logits_ratio(goal.labels, goal.targets, logits)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class KLDivergence(Objective):
    """The divergence of the attacked prediction from the clean one. It ignores labels."""

    name: ClassVar[str] = "kl_divergence"
    needs_clean_logits: ClassVar[bool] = True
    takes_targets: ClassVar[bool] = False

    def __call__(self, logits: Tensor, goal: Goal) -> Tensor:
        """Returns the value per example, (batch,) float32."""
        return kl_divergence(goal.clean_logits, logits)


OBJECTIVES = {kind.name: kind for kind in (CrossEntropy, Margin, DifferenceOfLogitsRatio, KLDivergence)}


def get_objective(objective: Any) -> Objective:
    """Returns an `Objective` from itself or from its name.

    Raises:
        ValueError: if it is neither. The message lists the names.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, str) and objective in OBJECTIVES:
        return OBJECTIVES[objective]()
    raise ValueError(
        f"objective must be one of {sorted(OBJECTIVES)} or an Objective. "
        f"Received: objective={objective!r} of type {type(objective).__name__}"
    )


def random_target(labels: Tensor, num_classes: int, seed: Tensor) -> Tensor:
    """Draws int32 (batch,) uniformly from the classes other than the label (Xie & Yuille, 2020, their code)."""
    label = as_sparse(labels)
    return (label + 1 + seeds.integers(tf.shape(label), seed, num_classes - 1)) % num_classes


def random_any_target(labels: Tensor, num_classes: int, seed: Tensor) -> Tensor:
    """Draws int32 (batch,) uniformly from all classes, the label included (the code of Kannan et al., 2018)."""
    return seeds.integers(tf.shape(as_sparse(labels)), seed, num_classes)


def least_likely_target(clean_logits: Tensor) -> Tensor:
    """Returns int32 (batch,): the class with the smallest logit of the clean image (Kurakin et al., 2017)."""
    return tf.argmin(clean_logits, axis=1, output_type=tf.int32)


TARGETS = {
    "untargeted": "away from the label",
    "untargeted_from_prediction": "away from the class predicted for the clean image (the code of Kannan et al., 2018)",
    "random": "towards a random wrong class",
    "random_any": "towards a random class, which may be the label (the code of Kannan et al., 2018)",
    "least_likely": "towards the class least likely for the clean image",
    "given": "towards the `targets` passed to the attack",
}
"""Possible names for the `target` of an attack."""

NEEDS_CLEAN_LOGITS = frozenset({"untargeted_from_prediction", "random", "random_any", "least_likely"})
"""Targets that need the logits of the clean image. (The random ones use only their number of classes.)"""


def check_target(target: Any) -> None:
    """Raises `ValueError` unless `target` is one of the names in `TARGETS`."""
    if not isinstance(target, str) or target not in TARGETS:
        raise ValueError(
            f"target must be one of {sorted(TARGETS)}. Received: target={target!r} of type {type(target).__name__}"
        )


def choose_goal_classes(
    target: str, labels: Tensor, clean_logits: Tensor | None, seed: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Returns (labels to leave, targets to reach or None) for a `target` of `TARGETS` other than "given".

    Args:
        target: one of `TARGETS`.
        labels: sparse (batch,) or one-hot (batch, classes).
        clean_logits: (batch, classes), required for the names in `NEEDS_CLEAN_LOGITS`.
        seed: int32 tensor of shape (2,), for the random targets.
    """
    if target == "untargeted":
        return labels, None
    if clean_logits is None:
        raise ValueError(f"target={target!r} needs the logits of the clean images. Received: clean_logits=None")
    if target == "untargeted_from_prediction":
        return tf.argmax(clean_logits, axis=1, output_type=tf.int32), None
    num_classes = clean_logits.shape[1]
    if target == "random":
        return labels, random_target(labels, num_classes, seed)
    if target == "random_any":
        return labels, random_any_target(labels, num_classes, seed)
    return labels, least_likely_target(clean_logits)

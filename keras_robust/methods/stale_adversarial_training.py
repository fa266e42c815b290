"""Stale adversarial training: it shows the effect of asynchronous attacks on training, on a single device."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core.checks import check_integer
from keras_robust.core.execution import full_precision
from keras_robust.core.objectives import label_accuracy
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import ADVERSARIAL, CLEAN, use_branch
from keras_robust.methods.replica_state import KeepsReplicaState
from keras_robust.methods.robust_model import fit_arguments

KERAS_BATCH_SIZE = 32
"""The default batch size of `fit` for arrays."""


@keras.saving.register_keras_serializable(PACKAGE)
class StaleAdversarialTraining(KeepsReplicaState):
    """Adversarial training on images that were attacked `staleness` updates ago (Bhat et al., 2018, section 5).

    The device holds a queue of `staleness` attacked batches. The first `staleness` steps fill it with batches attacked
    with the initial weights. In these steps the loss and its gradients are 0, but Keras does the rest of a step: the
    moving averages of batch normalisation change, decoupled weight decay shrinks the weights, and the optimizer and
    schedules count the step. All batches must have the same size.

    `robust_accuracy` is measured on the stale images of the training (while the queue fills, on the images attacked in
    the same step). `fresh_robust_accuracy` is measured on the images attacked in the same step. If the two differ
    clearly, the classifier has memorised the stale images. In the paper, on MNIST, a staleness of 32 does no harm, and
    64 leaves no robustness.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`.
        staleness: number of updates between attack and training, at least 0. 0 is adversarial training.
        **kwargs: arguments of `RobustModel`.

    Raises:
        ValueError: if `staleness` is negative; in `fit`, if the last batch of arrays is smaller than the others; see
            also `RobustModel`.
    """

    REPLICA_STATE_BATCH_AXIS = 1  # a queue of batches

    def __init__(self, classifier: keras.Layer, attack: Attack, *, staleness: int, **kwargs: Any) -> None:
        check_integer("staleness", staleness, 0)
        super().__init__(classifier, attack, **kwargs)
        self.staleness = staleness
        self.fresh_accuracy = keras.metrics.Mean(name="fresh_robust_accuracy")

    def replica_state_specs(self, images: Any, labels: Any) -> dict[str, tuple[tuple[int, ...], str]]:
        """Returns shapes and dtypes of the queues of images, labels and sample weights."""
        if not self.staleness:
            return {}
        s = self.staleness
        return {
            "images": ((s, *images.shape), full_precision()),
            "labels": ((s, *labels.shape), tf.as_dtype(labels.dtype).name),
            "weights": ((s, len(images)), "float32"),
        }

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `RobustModel.fit` does, on batches of the same size.

        Raises:
            ValueError: if the last batch of arrays would be smaller; see also `RobustModel.fit`.
        """
        given = fit_arguments(self, *args, **kwargs).arguments
        images: Any = given.get("x")
        size = given.get("batch_size") or KERAS_BATCH_SIZE
        if self.staleness and hasattr(images, "shape"):
            count = len(images)
            if given.get("validation_data") is None:
                count = math.floor(count * (1 - given.get("validation_split", 0.0)))  # as Keras splits
            if count % size:
                raise ValueError(
                    "All batches of stale adversarial training must have the same size. Leave the last examples out, "
                    "or pass a data set that is batched with drop_remainder=True. "
                    f"Received: {count} images in batches of {size}"
                )
        return super().fit(*args, **kwargs)

    def attack_batch(self, data: Any) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Puts the attacked batch at the end of the queue, and returns the batch at its head."""
        passes, labels, sample_weight = super().attack_batch(data)
        fresh = passes[ADVERSARIAL]
        with use_branch(ADVERSARIAL):
            logits = self.classifier(fresh, training=False)
        self.fresh_accuracy.update_state(label_accuracy(labels, logits))
        if not self.staleness:
            return passes, labels, sample_weight
        weight = tf.ones(tf.shape(fresh)[:1]) if sample_weight is None else tf.reshape(sample_weight, (-1,))
        slot = (self.steps_taken.value - 1) % self.staleness
        stale = {}
        for name, value in (("images", fresh), ("labels", labels), ("weights", tf.cast(weight, tf.float32))):
            queue = self.replica_state[name]
            value = tf.cast(value, queue.dtype)
            stale[name] = tf.where(self._is_full(), queue.exchange(slot, value), value)
        return {ADVERSARIAL: stale["images"]}, stale["labels"], stale["weights"]

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the loss, or 0 while the queue is being filled."""
        loss = super().robust_loss(labels, logits, sample_weight)
        return tf.where(self._is_full(), loss, tf.zeros_like(loss))

    def auxiliary_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor | float:
        """Returns the loss on auxiliary logits, or 0 while the queue is being filled."""
        loss = super().auxiliary_loss(labels, logits, sample_weight)
        return tf.where(self._is_full(), loss, tf.zeros_like(loss))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Tensor]:
        """Returns the metrics as `RobustModel` does. Only training has the fresh accuracy."""
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        if not isinstance(y_pred, dict) or CLEAN in y_pred:
            del results[self.fresh_accuracy.name]
        return results

    def _is_full(self) -> Tensor:
        """Returns whether the queue was full before this step."""
        return self.steps_taken.value > self.staleness

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the model."""
        return {**super().get_config(), "staleness": self.staleness}

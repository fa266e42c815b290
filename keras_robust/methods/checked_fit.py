"""`fit`, with a look at what it is given before anything is trained."""

from typing import Any

import keras
import tensorflow as tf

from keras_robust.methods.compiled_model import CompiledModel
from keras_robust.methods.crafted_batches import TakesCraftedBatches
from keras_robust.methods.first_batch import check_batch, peek
from keras_robust.methods.replica_state import KeepsReplicaState


class CheckedFit(TakesCraftedBatches, KeepsReplicaState, CompiledModel):
    """A model that looks at the first batch of what `fit` is given."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest pixel value."""
        return (0.0, 1.0)

    def fit(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, after a look at the first batch.

        Raises:
            ValueError: if the model was never compiled, or images, labels or classifier are not what they must be:
                see `first_batch.check_batch`.
        """
        if not self.compiled:
            raise ValueError("Call `compile(optimizer=..., loss=...)` before `fit`. Received: a model never compiled")
        images, labels, x = peek(x, y, batch_size)
        images = self.prepare_crafted(images, self.bounds)
        self._check(images, labels)
        is_split = isinstance(x, tf.distribute.DistributedDataset)
        replicas = 1 if is_split else self.distribute_strategy.num_replicas_in_sync
        self.make_replica_state(tf.convert_to_tensor(images), tf.convert_to_tensor(labels), replicas)
        return super().fit(x, y, batch_size, *args, **kwargs)

    def _check(self, images: Any, labels: Any) -> None:
        """Raises `ValueError` as `check_batch`; a classifier that is not built yet is built by it, in the scope."""
        with self.distribute_strategy.scope():
            check_batch(self.classifier, images, labels, self.bounds)

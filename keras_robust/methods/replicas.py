"""Training on several replicas: tensors with a different value on each replica, and replicas that get no images.

A replica without images runs the classifier on a substitute image and drops the results. With 0 images, batch
statistics would be undefined, and some kernels fail. The losses, gradients and metrics of this replica are still those
of 0 images.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robust.core.execution import make_tf_function
from keras_robust.core.keras_private import is_multi_worker
from keras_robust.core.seeds import Tensor


class ReplicaState:
    """A variable that has its own value on each replica. All values are saved and restored.

    Keras's own variables have the same value on all replicas. A `ReplicaState` must be made in the strategy's scope.

    Args:
        shape: shape of the value of one replica.
        dtype: name of the TensorFlow dtype.
        batch_axis: the axis of the examples. Each replica has its share of the batch along this axis.

    Attributes:
        variable: the variable; in a training step it is that of this replica.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, batch_axis: int) -> None:
        self._strategy = tf.distribute.get_strategy()
        self._batch_axis = batch_axis
        self.variable = tf.Variable(
            tf.zeros(shape, dtype),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.NONE,
        )
        self._read_shares = make_tf_function(self._shares)
        self._write_shares = make_tf_function(self._assign_shares)
        self._clear_shares = make_tf_function(self._assign_zeros)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value of one replica."""
        return tuple(self.variable.shape)

    @property
    def dtype(self) -> str:
        """Name of the TensorFlow dtype."""
        return self.variable.dtype.name

    def check(self, shape: tuple[int, ...], dtype: str) -> None:
        """Raises `ValueError` unless it has this shape and dtype. They differ if the batches have changed."""
        if (self.shape, self.dtype) != (tuple(shape), dtype):
            raise ValueError(
                "Batches must keep their shape and dtype, because each replica keeps a tensor of shape "
                f"{self.shape}, {self.dtype}, from step to step. Make a new model for other batches. "
                f"Received: batches for shape {tuple(shape)}, {dtype}"
            )

    @property
    def value(self) -> Any:
        """This replica's value, in a training step."""
        return self.variable.read_value()

    def assign(self, value: Any) -> None:
        """Sets this replica's value, in a training step."""
        self.variable.assign(value)

    def exchange(self, index: Any, value: Any) -> Any:
        """Returns entry `index` along the first axis of this replica's value, and sets it to `value`, in a step.

        Only this entry is read and written, because a queue of batches is large.
        """
        handle = self.variable.handle
        value = tf.ensure_shape(value, self.variable.shape[1:])
        old = tf.raw_ops.ResourceGather(resource=handle, indices=index, dtype=self.variable.dtype)
        with tf.control_dependencies([old]):
            tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=index, updates=value)
        return old

    def to_array(self) -> np.ndarray:
        """Returns the values of all replicas, concatenated along the batch axis."""
        values = self._read_shares()
        if is_multi_worker(self._strategy):
            return self._strategy.gather(values, self._batch_axis).numpy()
        return np.concatenate(self._strategy.experimental_local_results(values), self._batch_axis)

    def from_array(self, values: np.ndarray) -> None:
        """Sets the values of all replicas.

        Args:
            values: the result of `to_array`, perhaps of another number of replicas.

        Raises:
            ValueError: if the shape is wrong, because the size of the global batch has changed.
        """
        replicas = self._strategy.num_replicas_in_sync
        expected = list(self.shape)
        expected[self._batch_axis] *= replicas
        if list(values.shape) != expected:
            raise ValueError(
                "The global batch must have the size that it had in the run that saved the model: here, replicas keep "
                f"values of shape {tuple(expected)}. Received: values of shape {values.shape}"
            )
        self._write_shares(tf.constant(np.stack(np.split(values, replicas, self._batch_axis))))

    def clear(self) -> None:
        """Sets the values of all replicas to 0."""
        self._clear_shares()

    def _shares(self) -> Any:
        """Returns the values by replica."""
        return self._strategy.run(lambda: self.value)

    def _assign_zeros(self) -> None:
        self._strategy.run(lambda: self.variable.assign(tf.zeros_like(self.variable.read_value())))

    def _assign_shares(self, shares: Tensor) -> None:
        """Sets the value of each replica to its row of `shares`, (replicas, ...)."""
        self._strategy.run(lambda: self.assign(shares[tf.distribute.get_replica_context().replica_id_in_sync_group]))


def on_any_share(function: Callable[..., Any], training: bool, images: Tensor, *others: Tensor) -> Any:
    """Returns `function(images, *others)`, a nest of tensors (batch, ...), even if this replica has 0 images.

    With 0 images, a substitute image goes through the classifier. In training it is the first image of the first
    replica, because it enters the batch statistics and the moving averages. Otherwise it is black.

    Args:
        function: calls a classifier.
        training: whether it computes batch statistics that are kept.
        images: (batch, height, width, channels).
        *others: further tensors (batch, ...), such as labels. With 0 images, one row of zeros takes their place.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1 or images.shape[0] is not None:
        return function(images, *others)
    count = tf.shape(images)[0]
    stand_in = tf.reduce_sum(images[:1], axis=0)  # zeros if there are no images
    if training:
        is_first = tf.equal(context.replica_id_in_sync_group, 0)
        of_first = tf.where(is_first, stand_in, tf.zeros_like(stand_in))
        stand_in = tf.stop_gradient(context.all_reduce(tf.distribute.ReduceOp.SUM, of_first))
    padded = [_with(images, stand_in), *(_with(values, tf.reduce_sum(values[:1], axis=0)) for values in others)]
    return tf.nest.map_structure(lambda output: output[:count], function(*padded))


def _with(values: Tensor, stand_in: Tensor) -> Tensor:
    """Returns `values`, or `stand_in` as the only row if there are no values."""
    missing = tf.cast(tf.equal(tf.shape(values)[0], 0), tf.int32)
    return tf.concat([values, tf.repeat(stand_in[None], missing, axis=0)], axis=0)

"""Training on several replicas: tensors of their own from step to step, and batches that leave one without images.

A replica without images computes with an image that is not its own, and drops what comes of it: no images have no batch
statistics, and not every kernel takes them. Losses, gradients and metrics are those of no images.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robust.core.execution import make_tf_function
from keras_robust.core.keras_private import is_multi_worker
from keras_robust.core.seeds import Tensor


class ReplicaState:
    """A variable with a value of its own on every replica, saved and restored with all of them.

    Keras's own variables have the same value on all replicas. To be made in the scope of the strategy.

    Args:
        shape: on each replica.
        dtype: of TensorFlow, by name.
        batch_axis: the axis of the examples, of which each replica has its share.

    Attributes:
        variable: of this replica, in a training step.
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
        """On each replica."""
        return tuple(self.variable.shape)

    @property
    def dtype(self) -> str:
        """Of TensorFlow, by name."""
        return self.variable.dtype.name

    def check(self, shape: tuple[int, ...], dtype: str) -> None:
        """Raises `ValueError` unless it has this shape and dtype: batches have changed."""
        if (self.shape, self.dtype) != (tuple(shape), dtype):
            raise ValueError(
                "What a replica keeps from step to step fits the batches that it was made for: "
                f"shape {self.shape}, {self.dtype}. Received: batches for shape {tuple(shape)}, {dtype}"
            )

    @property
    def value(self) -> Any:
        """This replica's value, in a training step."""
        return self.variable.read_value()

    def assign(self, value: Any) -> None:
        """Sets this replica's value, in a training step."""
        self.variable.assign(value)

    def exchange(self, index: Any, value: Any) -> Any:
        """Returns entry `index` along the first axis of this replica's value and puts `value` there, in a step.

        Only that entry is read and written: a queue of batches is large.
        """
        handle = self.variable.handle
        value = tf.ensure_shape(value, self.variable.shape[1:])
        old = tf.raw_ops.ResourceGather(resource=handle, indices=index, dtype=self.variable.dtype)
        with tf.control_dependencies([old]):
            tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=index, updates=value)
        return old

    def to_array(self) -> np.ndarray:
        """Returns the values of all replicas, one after the other along the axis of the batch."""
        values = self._read_shares()
        if is_multi_worker(self._strategy):
            return self._strategy.gather(values, self._batch_axis).numpy()
        return np.concatenate(self._strategy.experimental_local_results(values), self._batch_axis)

    def from_array(self, values: np.ndarray) -> None:
        """Sets what each replica has of `values`, which `to_array` returned, perhaps of more or fewer replicas.

        Raises:
            ValueError: if the shape is another: the global batch has changed.
        """
        replicas = self._strategy.num_replicas_in_sync
        expected = list(self.shape)
        expected[self._batch_axis] *= replicas
        if list(values.shape) != expected:
            raise ValueError(
                "What replicas keep from step to step fits the global batch of the run that saved it: "
                f"{tuple(expected)} here. Received: values of shape {values.shape}"
            )
        self._write_shares(tf.constant(np.stack(np.split(values, replicas, self._batch_axis))))

    def clear(self) -> None:
        """Sets the values of all replicas to 0."""
        self._clear_shares()

    def _shares(self) -> Any:
        """Returns what each replica has."""
        return self._strategy.run(lambda: self.value)

    def _assign_zeros(self) -> None:
        self._strategy.run(lambda: self.variable.assign(tf.zeros_like(self.variable.read_value())))

    def _assign_shares(self, shares: Tensor) -> None:
        """Sets what each replica has, (replicas, ...)."""
        self._strategy.run(lambda: self.assign(shares[tf.distribute.get_replica_context().replica_id_in_sync_group]))


def on_any_share(function: Callable[..., Any], training: bool, images: Tensor, *others: Tensor) -> Any:
    """Returns `function(images, *others)`, a nest of tensors (batch, ...), also for this replica's share of no images.

    In training the image that stands in is the first one of the first replica, since batch statistics, and the moving
    averages with them, are those of what went through the classifier. Elsewhere it is black.

    Args:
        function: calls a classifier.
        training: whether that computes batch statistics that are kept.
        images: (batch, height, width, channels).
        *others: (batch, ...), such as labels; zeros stand in.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1 or images.shape[0] is not None:
        return function(images, *others)
    count = tf.shape(images)[0]
    stand_in = tf.reduce_sum(images[:1], axis=0)  # zeros where there are no images
    if training:
        is_first = tf.equal(context.replica_id_in_sync_group, 0)
        of_first = tf.where(is_first, stand_in, tf.zeros_like(stand_in))
        stand_in = tf.stop_gradient(context.all_reduce(tf.distribute.ReduceOp.SUM, of_first))
    padded = [_with(images, stand_in), *(_with(values, tf.reduce_sum(values[:1], axis=0)) for values in others)]
    return tf.nest.map_structure(lambda output: output[:count], function(*padded))


def _with(values: Tensor, stand_in: Tensor) -> Tensor:
    """Returns `values`, or `stand_in` as the only one where there are none."""
    missing = tf.cast(tf.equal(tf.shape(values)[0], 0), tf.int32)
    return tf.concat([values, tf.repeat(stand_in[None], missing, axis=0)], axis=0)

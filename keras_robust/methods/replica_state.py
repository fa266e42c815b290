"""Tensors that a method keeps from step to step, each replica its own."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core.seeds import Tensor


class ReplicaState:
    """A variable with a value of its own on every replica, saved and restored with all of them.

    Keras's own variables have the same value on all replicas. To be made in the scope of the strategy.

    Args:
        shape: on each replica.
        dtype: of TensorFlow, by name.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self._strategy = tf.distribute.get_strategy()
        self._variable = tf.Variable(
            tf.zeros(shape, dtype),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.NONE,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """On each replica."""
        return tuple(self._variable.shape)

    @property
    def dtype(self) -> str:
        """Of TensorFlow, by name."""
        return self._variable.dtype.name

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
        return self._variable.read_value()

    def assign(self, value: Any) -> None:
        """Sets this replica's value, in a training step."""
        self._variable.assign(value)

    def exchange(self, index: Any, value: Any) -> Any:
        """Returns entry `index` along the first axis of this replica's value and puts `value` there, in a step.

        Only that entry is read and written: a queue of batches is large.
        """
        handle = self._variable.handle
        value = tf.ensure_shape(value, self._variable.shape[1:])
        old = tf.raw_ops.ResourceGather(resource=handle, indices=index, dtype=self._variable.dtype)
        with tf.control_dependencies([old]):
            tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=index, updates=value)
        return old

    def to_array(self) -> np.ndarray:
        """Returns the values of all replicas, (replicas, *shape)."""
        return np.stack([local.numpy() for local in self._strategy.experimental_local_results(self._variable)])

    def from_array(self, values: np.ndarray) -> None:
        """Sets the values of all replicas.

        Raises:
            ValueError: if there are more or fewer replicas than when they were saved, or the shape is another.
        """
        local = self._strategy.experimental_local_results(self._variable)
        expected = (len(local), *self._variable.shape)
        if values.shape != expected:
            raise ValueError(
                "What each replica keeps from step to step fits the replicas and the batch size of the run that saved "
                f"it: {expected} here. Received: values of shape {values.shape}"
            )
        for variable, value in zip(local, values, strict=True):
            variable.assign(value)


class KeepsReplicaState(keras.Model):
    """A model that keeps tensors per replica from step to step, in `self.replica_state`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.replica_state: dict[str, ReplicaState] = {}

    def replica_state_specs(self, images: Tensor, labels: Tensor) -> dict[str, tuple[tuple[int, ...], str]]:
        """Returns shape and dtype by name of what each replica keeps from step to step, in `self.replica_state`.

        Args:
            images: a batch of one replica.
            labels: of it.
        """
        del images, labels
        return {}

    def make_replica_state(self, images: Tensor, labels: Tensor, replicas: int) -> None:
        """Makes the state that there is none of yet, for batches such as these of all replicas together."""
        share = len(images) // replicas
        specs = self.replica_state_specs(images[:share], labels[:share])
        with self.distribute_strategy.scope():
            for name, (shape, dtype) in specs.items():
                if name not in self.replica_state:
                    self.replica_state[name] = ReplicaState(shape, dtype)
                self.replica_state[name].check(shape, dtype)

    def save_own_variables(self, store: Any) -> None:
        """Saves the model's own variables, and what each replica keeps."""
        super().save_own_variables(store)
        for name, state in self.replica_state.items():
            store[f"replica_state_{name}"] = state.to_array()

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        prefix, own = "replica_state_", {}
        for key in store.keys():  # noqa: SIM118 - an h5 group
            values = store[key]
            if key.startswith(prefix):
                state = ReplicaState(values.shape[1:], np.asarray(values).dtype.name)
                state.from_array(np.asarray(values))
                self.replica_state[key.removeprefix(prefix)] = state
            else:
                own[key] = values
        super().load_own_variables(own)

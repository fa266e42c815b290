"""Tensors that a method keeps from step to step, each replica its own."""

from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core.execution import compiled
from keras_robust.core.seeds import Tensor
from keras_robust.methods.multi_worker import is_multi_worker


class ReplicaState:
    """A variable with a value of its own on every replica, saved and restored with all of them.

    Keras's own variables have the same value on all replicas. To be made in the scope of the strategy.

    Args:
        shape: on each replica.
        dtype: of TensorFlow, by name.
        batch_axis: the axis of the examples, of which each replica has its share.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, batch_axis: int) -> None:
        self._strategy = tf.distribute.get_strategy()
        self._batch_axis = batch_axis
        self._variable = tf.Variable(
            tf.zeros(shape, dtype),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.NONE,
        )
        self._read_shares = compiled(self._shares)
        self._write_shares = compiled(self._assign_shares)

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

    def _shares(self) -> Any:
        """Returns what each replica has."""
        return self._strategy.run(lambda: self.value)

    def _assign_shares(self, shares: Tensor) -> None:
        """Sets what each replica has, (replicas, ...)."""
        self._strategy.run(lambda: self.assign(shares[tf.distribute.get_replica_context().replica_id_in_sync_group]))


class KeepsReplicaState(keras.Model):
    """A model that keeps tensors per replica from step to step, in `self.replica_state`."""

    REPLICA_STATE_BATCH_AXIS: ClassVar[int] = 0
    """Of all that a replica keeps: the axis of the examples."""

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
        share = -(-len(images) // replicas)  # the largest, of an odd batch on two
        specs = self.replica_state_specs(images[:share], labels[:share])
        with self.distribute_strategy.scope():
            for name, (shape, dtype) in specs.items():
                if name not in self.replica_state:
                    self.replica_state[name] = ReplicaState(shape, dtype, self.REPLICA_STATE_BATCH_AXIS)
                self.replica_state[name].check(shape, dtype)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`, in which each replica sees the whole batch; the first one is the largest."""
        if not self.replica_state:
            self.make_replica_state(tf.convert_to_tensor(x), tf.convert_to_tensor(y), replicas=1)
        return super().train_on_batch(x, y, *args, **kwargs)

    def save_own_variables(self, store: Any) -> None:
        """Saves the model's own variables, and what each replica keeps."""
        super().save_own_variables(store)
        for name, state in self.replica_state.items():
            store[f"replica_state_{name}"] = state.to_array()

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        prefix, own, axis = "replica_state_", {}, self.REPLICA_STATE_BATCH_AXIS
        replicas = self.distribute_strategy.num_replicas_in_sync
        for key in store.keys():  # noqa: SIM118 - an h5 group
            values = np.asarray(store[key])
            if key.startswith(prefix):
                share = list(values.shape)
                share[axis] //= replicas
                self._state_for(key.removeprefix(prefix), tuple(share), values.dtype.name).from_array(values)
            else:
                own[key] = values
        super().load_own_variables(own)

    def _state_for(self, name: str, shape: tuple[int, ...], dtype: str) -> ReplicaState:
        """Returns the state of that name: the one that a traced step holds, where it fits, or else a new one."""
        state = self.replica_state.get(name)
        if state is None or (state.shape, state.dtype) != (shape, dtype):
            with self.distribute_strategy.scope():
                state = ReplicaState(shape, dtype, self.REPLICA_STATE_BATCH_AXIS)
            self.replica_state[name] = state
            self.train_function = None
        return state

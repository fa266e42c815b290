"""Methods that keep tensors from step to step, each replica its own: a perturbation, a queue of batches."""

from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_robust.core.seeds import Tensor
from keras_robust.methods.replicas import ReplicaState
from keras_robust.methods.robust_model import RobustModel


class KeepsReplicaState(RobustModel):
    """A method that keeps tensors per replica from step to step, in `self.replica_state`; they are saved with it."""

    REPLICA_STATE_BATCH_AXIS: ClassVar[int] = 0
    """Of all that a replica keeps: the axis of the examples."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.replica_state: dict[str, ReplicaState] = {}

    def replica_state_specs(self, images: Tensor, labels: Tensor) -> dict[str, tuple[tuple[int, ...], str]]:
        """Returns shape and dtype by name of what each replica keeps from step to step, in `self.replica_state`.

        Args:
            images: a batch of one replica.
            labels: of it.
        """
        raise NotImplementedError

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

"""The base class of methods whose replicas keep tensors from step to step: a perturbation, or a queue of batches."""

from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_robust.core.seeds import Tensor
from keras_robust.methods.replicas import ReplicaState
from keras_robust.methods.robust_model import RobustModel


class KeepsReplicaState(RobustModel):
    """A method whose replicas keep tensors from step to step. `self.replica_state` is saved with the model."""

    REPLICA_STATE_BATCH_AXIS: ClassVar[int] = 0
    """The axis of the examples in every tensor that a replica keeps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.replica_state: dict[str, ReplicaState] = {}

    def replica_state_specs(self, images: Tensor, labels: Tensor) -> dict[str, tuple[tuple[int, ...], str]]:
        """Returns {name: (shape, dtype)} of the tensors that each replica keeps in `self.replica_state`.

        Args:
            images: the images of a batch of one replica.
            labels: the labels of these images.
        """
        raise NotImplementedError

    def make_replica_state(self, images: Tensor, labels: Tensor, replicas: int) -> None:
        """Makes the tensors that do not exist yet: see `RobustModel.make_replica_state`.

        Raises:
            ValueError: if they exist for another shape or dtype of the batch.
        """
        share = -(-len(images) // replicas)  # the largest share, if the batch cannot be divided evenly
        specs = self.replica_state_specs(images[:share], labels[:share])
        with self.distribute_strategy.scope():
            for name, (shape, dtype) in specs.items():
                if name not in self.replica_state:
                    self.replica_state[name] = ReplicaState(shape, dtype, self.REPLICA_STATE_BATCH_AXIS)
                self.replica_state[name].check(shape, dtype)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `keras.Model.train_on_batch` does. The first batch must be the largest.

        Each replica gets the whole batch.
        """
        if not self.replica_state:
            self.make_replica_state(tf.convert_to_tensor(x), tf.convert_to_tensor(y), replicas=1)
        return super().train_on_batch(x, y, *args, **kwargs)

    def save_own_variables(self, store: Any) -> None:
        """Saves the model's own variables and the tensors of all replicas."""
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
        """Returns the existing state of that name if it has this shape and dtype, otherwise a new one."""
        state = self.replica_state.get(name)
        if state is None or (state.shape, state.dtype) != (shape, dtype):
            with self.distribute_strategy.scope():
                state = ReplicaState(shape, dtype, self.REPLICA_STATE_BATCH_AXIS)
            self.replica_state[name] = state
            self.train_function = None
        return state

"""The worker of asynchronous generation: it attacks batches with the weights that it received last."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers.normalization import set_weights
from keras_robust.methods import RobustModel


def recipe(model: RobustModel) -> dict[str, Any]:
    """Returns the arguments of a `Crafter` that rebuilds `model`, without its weights, in another process."""
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)  # workers need no optimizer and its variables
    # The other process imports this toolkit itself. Ray sends the objects that the user's code registered: it imports
    # their module, or copies them if they are defined in the user's script.
    custom = keras.saving.get_custom_objects().items()
    others = {name: thing for name, thing in custom if _package_of(thing) != PACKAGE}
    needed = _names_in(config)
    return {"config": config, "custom_objects": {name: others[name] for name in others.keys() & needed}}


def _package_of(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]


def _names_in(config: Any) -> set[str]:
    """Returns all strings in nested data. The names of registered objects are among them."""
    if isinstance(config, str):
        return {config}
    parts = [*config.values()] if isinstance(config, dict) else config if isinstance(config, list | tuple) else []
    return {name for part in parts for name in _names_in(part)}


class Crafter:
    """Attacks batches with `perturb` of a model, as its training step does.

    Args:
        config: "config" of `recipe`.
        custom_objects: "custom_objects" of `recipe`.
        threads: CPU threads for one operation. None leaves the choice to TensorFlow. A number is allowed only before
            TensorFlow has run an operation in this process.
    """

    def __init__(self, config: dict[str, Any], custom_objects: dict[str, Any], threads: int | None = None) -> None:
        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            for gpu in tf.config.list_physical_devices("GPU"):  # several workers may share a GPU
                tf.config.experimental.set_memory_growth(gpu, True)
        self._model = keras.saving.deserialize_keras_object(config, custom_objects, safe_mode=False)
        self._model.build_as_classifier()
        self._attack = tf.function(functools.partial(_attack, self._model))  # Ray changes the signatures of methods
        self._step = 0

    def ready(self) -> None:
        """Returns as soon as the worker has started."""

    def set_weights(self, weights: Sequence[np.ndarray], step: int) -> None:
        """Sets the weights of the model.

        Args:
            weights: `get_weights()` of the model.
            step: number of training steps that the model had taken when it had these weights.
        """
        set_weights(self._model, weights)
        self._step = step

    def craft(self, ticket: int, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int]:
        """Returns attacked images, of the shape of `images`, and the step of the weights that attacked them.

        Args:
            ticket: number of the batch. The random starts depend on it and on the seed of the model.
            images: (batch, height, width, channels).
            labels: (batch,) or (batch, classes).
        """
        # TensorFlow traces a function once for all tensors of a shape, but again for every Python number.
        return self._attack(tf.constant(images), tf.constant(labels), tf.constant(ticket)).numpy(), self._step


def _attack(model: RobustModel, images: Tensor, labels: Tensor, ticket: Tensor) -> Tensor:
    return model.perturb(images, labels, seeds.fold(seeds.as_seed(model.seed), seeds.WORKER, ticket))

"""What a worker of asynchronous generation does: it attacks batches with the weights that it was sent last."""

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
    """Returns the arguments with which a `Crafter` in another process rebuilds `model`, without its weights."""
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)  # an optimizer has variables of its own
    # Another process imports this toolkit; what others registered, it gets: Ray imports its module, or copies it where
    # that is the user's own script.
    custom = keras.saving.get_custom_objects().items()
    others = {name: thing for name, thing in custom if _package_of(thing) != PACKAGE}
    needed = _names_in(config)
    return {"config": config, "custom_objects": {name: others[name] for name in others.keys() & needed}}


def _package_of(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]


def _names_in(config: Any) -> set[str]:
    """Returns all texts in nested data: among them the names of what it needs."""
    if isinstance(config, str):
        return {config}
    parts = [*config.values()] if isinstance(config, dict) else config if isinstance(config, list | tuple) else []
    return {name for part in parts for name in _names_in(part)}


class Crafter:
    """Attacks batches as the training step of a model does: with its `perturb`, whatever the method.

    Args:
        config: of `recipe`.
        custom_objects: of `recipe`.
        threads: CPU threads for one operation; None leaves it to TensorFlow. To be given in a new process only.
    """

    def __init__(self, config: dict[str, Any], custom_objects: dict[str, Any], threads: int | None = None) -> None:
        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            for gpu in tf.config.list_physical_devices("GPU"):  # several workers may share one
                tf.config.experimental.set_memory_growth(gpu, True)
        self._model = keras.saving.deserialize_keras_object(config, custom_objects, safe_mode=False)
        self._model.build_as_classifier()
        self._attack = tf.function(functools.partial(_attack, self._model))  # Ray changes the signatures of methods
        self._step = 0

    def ready(self) -> None:
        """Returns when the worker is."""

    def set_weights(self, weights: Sequence[np.ndarray], step: int) -> None:
        """Takes the weights of the model, as of its `get_weights`, which `step` training steps have made."""
        set_weights(self._model, weights)
        self._step = step

    def craft(self, ticket: int, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int]:
        """Returns attacked images and the step of the weights that they were attacked with.

        Args:
            ticket: what the random starts depend on, beside the seed of the model.
            images: (batch, height, width, channels).
            labels: (batch,) or (batch, classes).
        """
        # TensorFlow compiles a function once for tensors of one shape, but for each value of a Python number.
        return self._attack(tf.constant(images), tf.constant(labels), tf.constant(ticket)).numpy(), self._step


def _attack(model: RobustModel, images: Tensor, labels: Tensor, ticket: Tensor) -> Tensor:
    return model.perturb(images, labels, seeds.fold(seeds.as_seed(model.seed), seeds.WORKER, ticket))

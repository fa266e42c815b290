"""Mixture batch normalisation: separate statistics for clean and for attacked images."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras

from keras_robust.core.keras_private import flatten_layers
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers.batch_normalization import BatchNormalization

CLEAN, ADVERSARIAL = "clean", "adversarial"
BRANCHES = (CLEAN, ADVERSARIAL)

current_branch: contextvars.ContextVar[str | None] = contextvars.ContextVar("branch", default=None)
"""The branch of `use_branch`, or None outside of it."""


@keras.saving.register_keras_serializable(PACKAGE)
class MixtureBatchNormalization(keras.layers.Layer):
    """Batch normalisation with separate statistics, scales and offsets for clean and for attacked images.

    Source: Xie & Yuille (2020, section 4.2). The branch is chosen when a pass is traced: by `use_branch`, which
    `RobustModel` calls in training, otherwise by `self.branch`. At inference it is unknown whether an image was
    attacked, so a classifier is evaluated and exported with one branch: see `select_branch`.

    Args:
        branch: "adversarial" or "clean": the branch outside `use_branch`.
        name: name of the layer.
        **kwargs: arguments of `keras.layers.BatchNormalization`, for both branches.

    Raises:
        ValueError: if `branch` is unknown.
    """

    def __init__(self, branch: str = ADVERSARIAL, name: str | None = None, **kwargs: Any) -> None:
        dtype = kwargs.pop("dtype", None)
        trainable = kwargs.pop("trainable", True)
        super().__init__(name=name, dtype=dtype)
        _check_branch(branch)
        self.branch = branch
        self.clean = BatchNormalization(name=CLEAN, dtype=self.dtype_policy, **kwargs)
        self.adversarial = BatchNormalization(name=ADVERSARIAL, dtype=self.dtype_policy, **kwargs)
        self.supports_masking = True
        self.trainable = trainable  # sets both branches, so they must exist

    def build(self, input_shape: Any) -> None:
        """Creates the variables of both branches."""
        self.clean.build(input_shape)
        self.adversarial.build(input_shape)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns `inputs` normalised by the branch of this pass."""
        return getattr(self, current_branch.get() or self.branch)(inputs, training=training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `input_shape`."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the layer."""
        inner = self.clean.get_config()
        for name in ("name", "dtype", "trainable"):
            del inner[name]
        return {**super().get_config(), **inner, "branch": self.branch}


@contextlib.contextmanager
def use_branch(branch: str | None) -> Iterator[None]:
    """Makes every mixture batch normalisation that is called or traced inside use `branch`. None changes nothing.

    It acts only in the calling thread, but a strategy with several replicas traces in other threads. Around Keras's
    `evaluate` and `predict`, use `select_branch` instead.

    Raises:
        ValueError: if `branch` is unknown.
    """
    if branch is None:
        yield
        return
    _check_branch(branch)
    token = current_branch.set(branch)
    try:
        yield
    finally:
        current_branch.reset(token)


def branch_in_use(classifier: keras.Layer | None) -> str | None:
    """Returns the branch of `use_branch`, or None outside of it, for a classifier that has branches.

    Args:
        classifier: the classifier, or None for a function whose branch is fixed.

    Raises:
        ValueError: if a branch is in use and the classifier has none.
    """
    branch = current_branch.get()
    if branch is not None:
        _check_has_branches(classifier, branch)
    return branch


def mixture_layers(classifier: keras.Layer) -> list[MixtureBatchNormalization]:
    """Returns the mixture batch normalisations in `classifier`, nested ones too."""
    return [layer for layer in flatten_layers(classifier) if isinstance(layer, MixtureBatchNormalization)]


def has_branches(classifier: keras.Layer) -> bool:
    """Returns whether there is a mixture batch normalisation in `classifier`."""
    return bool(mixture_layers(classifier))


def select_branch(classifier: keras.Layer, branch: str) -> None:
    """Sets the branch with which `classifier` predicts, is evaluated, saved and exported.

    Functions that are already traced keep their branch. Select before `predict`, or compile again.

    Args:
        classifier: any model, also a `RobustModel`.
        branch: "clean" or "adversarial".

    Raises:
        ValueError: if `branch` is unknown, or the classifier has no mixture batch normalisation.
    """
    _check_branch(branch)
    _check_has_branches(classifier, branch)
    for layer in mixture_layers(classifier):
        layer.branch = branch


def _check_branch(branch: Any) -> None:
    if branch not in BRANCHES:
        raise ValueError(f"branch must be one of {BRANCHES}. Received: branch={branch!r}")


def _check_has_branches(classifier: keras.Layer | None, branch: str) -> None:
    if classifier is None or not has_branches(classifier):
        name = "a function or SavedModel" if classifier is None else repr(classifier.name)
        raise ValueError(
            "Only a Keras classifier with mixture batch normalisation has branches. "
            f"Received: branch={branch!r} for {name}"
        )

"""`fit`, with a look at what it is given before anything is trained."""

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.seeds import Tensor
from keras_robust.layers import BRANCHES, has_branches, mixture_layers
from keras_robust.methods.compiled_model import CompiledModel
from keras_robust.methods.crafted_batches import TakesCraftedBatches, clean_images
from keras_robust.methods.finite_values import StopAtNonFinite, StopsAtNonFinite, refused_labels_are_value_errors
from keras_robust.methods.first_batch import (
    Held,
    check_batch,
    check_binary_loss,
    counting_labels,
    peek,
    whole_after_errors,
)
from keras_robust.methods.replica_state import KeepsReplicaState
from keras_robust.methods.weight_averages import EndWithAverages, KeepsStatisticsOfAverages, warn_of_swapped_weights


def fit_arguments(model: keras.Model, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
    """Returns the arguments of a call of `fit` by their names."""
    return inspect.signature(keras.Model.fit).bind(model, *args, **kwargs)


def add_callbacks(arguments: dict[str, Any], callbacks: list[keras.callbacks.Callback]) -> None:
    """Puts `callbacks` before those among the arguments of a call of `fit`."""
    given = arguments.get("callbacks") or []
    if isinstance(given, keras.callbacks.CallbackList):
        for callback in callbacks:
            callback.set_params(given.params)
            callback.set_model(given.model)
        given.callbacks[:0] = callbacks
    else:
        arguments["callbacks"] = [*callbacks, *(given if isinstance(given, list | tuple) else [given])]


class CheckedFit(TakesCraftedBatches, StopsAtNonFinite, KeepsStatisticsOfAverages, KeepsReplicaState, CompiledModel):
    """A model that looks at the first batches of what `fit` is given."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_statistics_frozen = False

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest pixel value."""
        return (0.0, 1.0)

    def fit(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, after a look at the first batch, and at that of the validation data.

        Labels that are arrays are looked at as a whole. Where the optimizer averages weights (`use_ema=True`), the
        averages have statistics of batch normalisation of their own: see `weight_averages`.

        Raises:
            ValueError: if the model was never compiled, or images, labels or classifier are not what they must be:
                see `first_batch.check_batch`; in training, if a label is none of the classes.
            FloatingPointError: if images, attacked images, weights, gradients or the loss are not finite: within
                `finite_values.INTERVAL` steps, and before an epoch is validated or saved.
        """
        if not self.compiled:
            raise ValueError("Call `compile(optimizer=..., loss=...)` before `fit`. Received: a model never compiled")
        bound = fit_arguments(self, x, y, batch_size, *args, **kwargs)
        given = bound.arguments
        with self.distribute_strategy.scope():
            is_distributed = tf.distribute.has_strategy()
        held: Held = []  # iterators live until the end
        with whole_after_errors(held):
            images, labels, x = peek(x, y, batch_size, not is_distributed and given.get("class_weight") is None, held)
            images = self.prepare_crafted(images, self.bounds)
            self._check(images, labels, counting_labels(y, given.get("sample_weight")))
            given["x"] = x
            given["validation_data"] = self._checked_validation(given.get("validation_data"), not is_distributed, held)
        self._warn_of_branch(images)
        is_split = isinstance(x, tf.distribute.DistributedDataset)
        replicas = 1 if is_split else self.distribute_strategy.num_replicas_in_sync
        self.make_replica_state(tf.convert_to_tensor(images), tf.convert_to_tensor(labels), replicas)
        self.make_statistics_of_averages()
        warn_of_swapped_weights(self, given.get("callbacks"))
        add_callbacks(given, [StopAtNonFinite(), EndWithAverages()])
        self.forget_noted()
        try:
            with refused_labels_are_value_errors():
                return super().fit(*bound.args[1:], **bound.kwargs)
        finally:
            self.freeze_batch_statistics(False)

    def branches_of(self, images: Tensor) -> tuple[str, ...]:
        """Returns the branches of mixture batch normalisation that a step on `images` trains."""
        del images
        return BRANCHES

    def _warn_of_branch(self, images: Any) -> None:
        """Warns where the classifier predicts with a branch that is not trained."""
        trained = self.branches_of(tf.convert_to_tensor(images[:1])) if has_branches(self.classifier) else BRANCHES
        untrained = {layer.branch for layer in mixture_layers(self.classifier)} - set(trained)
        if untrained:
            warnings.warn(
                f"{type(self).__name__} trains the {' and '.join(trained)} branch of mixture batch normalisation, but "
                "the classifier is validated and exported with the other one: see keras_robust.layers.select_branch. "
                f"Received: a classifier with the {' and '.join(untrained)} branch",
                stacklevel=3,
            )

    def freeze_batch_statistics(self, frozen: bool) -> None:
        """Lets steps of this `fit` use moving averages instead of batch statistics; see `FreezeBatchStatistics`."""
        if self.batch_statistics_frozen != frozen:
            self.batch_statistics_frozen = frozen
            self.make_train_function(force=True)

    def _checked_validation(self, data: Any, goes_on: bool, held: Held) -> Any:
        """Checks validation data that can be looked at, and returns it: what is taken from a generator is gone."""
        if data is None or isinstance(data, Iterator):
            return data
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        images, labels, x = peek(x, y, None, goes_on, held)
        self._check(clean_images(images), labels, counting_labels(y, sample_weight))
        return x if isinstance(data, tf.data.Dataset) else data

    def _check(self, images: Any, labels: Any, all_labels: Any) -> None:
        """Raises `ValueError` as `check_batch`; a classifier that is not built yet is built by it, in the scope."""
        with self.distribute_strategy.scope():
            check_batch(self.classifier, images, labels, self.bounds, all_labels)
        check_binary_loss(self.loss, labels)

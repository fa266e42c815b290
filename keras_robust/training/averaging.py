"""The moving average of the weights that an optimizer with `use_ema=True` keeps, where a run is judged by it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Gives the model its averaged weights, and then its own back, bit for bit; without averages it does nothing."""
    own = [variable.numpy() for variable in model.trainable_variables]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, own, strict=True):
            variable.assign(value)


class ValidateAverages(keras.callbacks.Callback):
    """Validates the averaged weights, where the optimizer keeps them.

    (`keras.callbacks.SwapEMAWeights` exchanges the two by adding and subtracting, which rounds the weights.)
    """

    def __init__(self) -> None:
        super().__init__()
        self._validation = contextlib.ExitStack()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the averages in."""
        self._validation.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the weights back."""
        self._validation.close()

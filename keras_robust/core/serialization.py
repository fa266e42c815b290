"""Keras serialisation for frozen dataclasses."""

import dataclasses
from typing import Any, Self

import keras

PACKAGE = "keras_robust"


class Serializable:
    """Gives a dataclass the `get_config` and `from_config` that `.keras` files need."""

    def get_config(self) -> dict[str, Any]:
        """Returns the fields by name, serialised."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: keras.saving.serialize_keras_object(getattr(self, field.name)) for field in fields}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Builds the object that `get_config` described."""
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})

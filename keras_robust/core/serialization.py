"""Frozen dataclasses that Keras can save, and copies of them with other values."""

import copy
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


def replace_unchecked(instance: Any, **fields: Any) -> Any:
    """Returns a copy of a frozen dataclass with changed fields. They are not checked, so they may be tensors.

    For values from users call `dataclasses.replace`, which checks them.
    """
    replaced = copy.copy(instance)
    for name, value in fields.items():
        object.__setattr__(replaced, name, value)
    return replaced

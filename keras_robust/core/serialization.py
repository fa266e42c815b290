"""From objects to data and back: frozen dataclasses as Keras and as JSON saves them, and objects that a text names."""

import copy
import dataclasses
import difflib
import importlib
import json
import operator
import re
from collections.abc import Callable
from typing import Any, Self

import keras

PACKAGE = "keras_robust"
PATH_EXAMPLE = "my_package.networks:MyNet"
_DOTTED = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"


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


def as_json(serializable: Any) -> Any:
    """Returns what Keras writes of an object that it can save, in plain Python values.

    Raises:
        TypeError: if JSON cannot hold one of its settings.
    """
    return json.loads(json.dumps(keras.saving.serialize_keras_object(serializable)))


def replace_unchecked(instance: Any, **fields: Any) -> Any:
    """Returns a copy of a frozen dataclass with changed fields. They are not checked, so they may be tensors.

    For values from users call `dataclasses.replace`, which checks them.
    """
    replaced = copy.copy(instance)
    for name, value in fields.items():
        object.__setattr__(replaced, name, value)
    return replaced


def is_dotted_path(name: Any) -> bool:
    """Returns whether a name is a module and what it holds, such as "my_package.networks:MyNet"."""
    return isinstance(name, str) and re.fullmatch(f"{_DOTTED}:{_DOTTED}", name) is not None


def import_named(what: str, path: str) -> Callable[..., Any]:
    """Imports a class or function.

    Args:
        what: it is for, in messages.
        path: such as "my_package.networks:MyNet"; see `is_dotted_path`.

    Raises:
        ValueError: if the module cannot be imported, has no such name, or that is no class or function.
    """
    name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"The module {name!r} cannot be imported: {error}. Install its package, or name the folder that it is in "
            f"by the environment variable PYTHONPATH. Received: {what}={path!r}"
        ) from error
    try:
        found = operator.attrgetter(attribute)(module)
    except AttributeError:
        close = difflib.get_close_matches(attribute, dir(module), 1)
        hint = f": did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"The module {name!r} has no {attribute!r}{hint} Received: {what}={path!r}") from None
    if not callable(found) or isinstance(found, keras.Layer):
        raise ValueError(
            f"A path must name a class or a function that makes the object. Received: {what}={path!r}, of type "
            f"{type(found).__name__}"
        )
    return found


def path_of(thing: Any) -> str:
    """Returns the module and name of a class or function, or of the class of another object."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def not_registered(error: Exception) -> str | None:
    """Returns what Keras could not find while it loaded a file, such as "class 'MyNet'"; None for other errors."""
    found = re.search(r"Could not locate (\w+ '[^']*')", str(error))
    return found and found[1]

"""What happens at `import keras_robust`: other backends than TensorFlow are refused, and some names wait for their use.

It is imported before anything that imports Keras.
"""

import importlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def backend_of_keras() -> str:
    """Returns the backend that Keras has, or will have: it is chosen when Keras is imported, and may not be there."""
    if "keras" in sys.modules:
        return sys.modules["keras"].config.backend()
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    try:
        of_file = json.loads((home / "keras.json").read_text()).get("backend")
    except (OSError, ValueError):
        of_file = None
    return os.environ.get("KERAS_BACKEND") or of_file or "tensorflow"


def require_tensorflow() -> None:
    """Raises `ImportError` if the backend of Keras is not TensorFlow."""
    backend = backend_of_keras()
    if backend != "tensorflow":
        raise ImportError(
            "keras_robust is built on TensorFlow: set KERAS_BACKEND=tensorflow in the environment, or the backend in "
            f"~/.keras/keras.json, before Keras is imported. Received: the Keras backend {backend!r}"
        )


def on_first_use(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package some of whose names need libraries that take long to load.

    Args:
        package: its dotted name.
        places: by name in the package, where it is: "module:NAME", or "module" for the module itself.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = places[name].partition(":")
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found

    return get


require_tensorflow()

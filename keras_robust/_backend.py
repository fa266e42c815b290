"""The backend of Keras, looked at before anything else is imported: every part of the toolkit is TensorFlow."""

import json
import os
import pathlib
import sys


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


require_tensorflow()

"""Under another backend than TensorFlow `import keras_robust` says so, before anything else fails."""

import os
import subprocess
import sys

import pytest

IMPORT = "import keras_robust"


def last_line(code: str, **environment: str) -> str:
    """Returns the last line that a Python process says."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return (result.stderr if result.returncode else result.stdout).strip().splitlines()[-1]


@pytest.mark.parametrize("backend", ["numpy", "jax", "torch"])
def test_the_environment_names_another_backend(backend):
    line = last_line(IMPORT, KERAS_BACKEND=backend)
    assert line.startswith("ImportError: keras_robust is built on TensorFlow: set KERAS_BACKEND=tensorflow")
    assert line.endswith(f"Received: the Keras backend '{backend}'")


def test_keras_was_imported_with_another_backend():
    """What the environment says then comes too late."""
    keras = "types.SimpleNamespace(config=types.SimpleNamespace(backend=lambda: 'numpy'))"
    code = f"import sys, types; sys.modules['keras'] = {keras}\n{IMPORT}.core"
    assert last_line(code, KERAS_BACKEND="tensorflow").endswith("Received: the Keras backend 'numpy'")


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_the_file_of_keras_names_another_backend(tmp_path, backend):
    """JAX need not be installed."""
    (tmp_path / "keras.json").write_text(f'{{"backend": "{backend}"}}')
    line = last_line(IMPORT, KERAS_BACKEND="", KERAS_HOME=str(tmp_path))
    assert line.startswith("ImportError: keras_robust is built on TensorFlow")
    assert line.endswith(f"Received: the Keras backend '{backend}'")


def test_tensorflow_is_right():
    assert last_line(f"{IMPORT}; print(keras_robust.__version__[0])", KERAS_BACKEND="tensorflow") in "0123456789"

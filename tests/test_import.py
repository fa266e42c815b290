"""What `import keras_robust` loads: not the tools on top of it, and no library before its first use."""

import subprocess
import sys

import pytest

LATER = (
    *("matplotlib", "jinja2", "ray", "tensorflow_datasets", "tensorboard", "ml_collections"),
    *("keras_robust.tools", "keras_robust.reports.page", "keras_robust.data.builders"),
)


def said_by(code: str) -> str:
    """Returns the last line that a Python process prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip().splitlines()[-1]


def test_nothing_is_loaded_that_waits_for_its_use():
    """What TensorFlow and Keras load is theirs: Keras loads Matplotlib, where it is there."""
    code = f"""
import sys, tensorflow, keras
before = set(sys.modules)
import keras_robust as kr
print([name for name in {LATER} if name in set(sys.modules) - before])
"""
    assert said_by(code) == "[]"


def test_libraries_of_single_parts_need_not_be_there():
    """A module that is None in `sys.modules` cannot be imported."""
    libraries = [name for name in LATER if not name.startswith("keras_robust")]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({libraries}))
import keras_robust as kr
print(kr.attacks.PGD.__name__)
"""
    assert said_by(code) == "PGD"


@pytest.mark.parametrize(
    ("use", "is_loaded"),
    [
        ("kr.planning.parse_devices('8xH100')", "keras_robust.tools.planning"),
        ("kr.data.MnistSmall", "tensorflow_datasets"),
        ("from keras_robust.reports import render_html", "jinja2"),
    ],
)
def test_the_first_use_loads_what_it_needs(use, is_loaded):
    assert said_by(f"import sys; import keras_robust as kr; {use}; print({is_loaded!r} in sys.modules)") == "True"


def test_a_name_that_is_nowhere():
    code = "import keras_robust as kr\ntry: kr.data.nothing\nexcept AttributeError as error: print(error)"
    assert said_by(code) == "module 'keras_robust.data' has no attribute 'nothing'"

"""What `import keras_robust` loads: not the tools on top of it, and no library before its first use."""

import json
import subprocess
import sys

LATER = (
    *("matplotlib", "jinja2", "ray", "tensorflow_datasets", "tensorboard", "ml_collections"),
    *("keras_robust.tools", "keras_robust.reports.page", "keras_robust.data.builders"),
)


USES = {
    "from keras_robust.reports import render_html": "jinja2",
    "kr.data.MnistSmall": "tensorflow_datasets",
    "kr.planning.parse_devices('8xH100')": "keras_robust.tools.planning",  # loads data sets, too
}
"""What a user writes, and what it must load."""


def said_by(code: str) -> str:
    """Returns the last line that a Python process prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip().splitlines()[-1]


def test_what_the_import_and_the_first_uses_load():
    """What TensorFlow and Keras load is theirs: Keras loads Matplotlib if it is installed."""
    code = f"""
import json, sys, tensorflow, keras
before = set(sys.modules)
import keras_robust as kr
loaded = [name for name in {LATER} if name in set(sys.modules) - before]
found = []
for use, module in {USES}.items():
    found.append(module in sys.modules)
    exec(use)
    found.append(module in sys.modules)
try:
    kr.data.nothing
except AttributeError as error:
    message = str(error)
print(json.dumps([loaded, found, message]))
"""
    loaded, found, message = json.loads(said_by(code))
    assert loaded == []
    assert found == [False, True] * len(USES)
    assert message == "module 'keras_robust.data' has no attribute 'nothing'"


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

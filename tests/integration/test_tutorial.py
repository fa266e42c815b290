"""What the tutorial says to type works, from a folder of images to a served model."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
CLASSES = 20
FEWER = {"train": ["--config.epochs=1"], "evaluate": ["--split=test[:4]"], "export": []}


@pytest.fixture
def folder(tmp_path):
    """A working folder with images/SPLIT/CLASS/*.png of differing size."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 1), ("test", 1)):
        for label in range(CLASSES):
            place = tmp_path / "images" / split / f"class{label}"
            place.mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 256, (40 + label, 48, 3), np.uint8)
                Image.fromarray(image).save(place / f"{index}.png")
    return tmp_path


def run(folder, arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{arguments}\n{result.stderr[-2000:]}"
    return result.stdout


@pytest.mark.slow
def test_the_tutorial_from_images_to_a_served_model(folder):
    fit, serve = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
    assert "val_robust_accuracy" in run(folder, ["-c", fit])
    assert (folder / "mine.keras").exists()

    commands = re.findall(r"^    (python launch/.*)$", TUTORIAL, re.MULTILINE)
    assert [re.search(r"launch/(\w+)\.py", command)[1] for command in commands] == list(FEWER)
    for command in commands:
        python, script, *arguments = shlex.split(command.replace("configs/", f"{ROOT}/configs/"))
        assert python == "python"
        run(folder, [str(ROOT / script), *arguments, *FEWER[pathlib.Path(script).stem]])
    assert (folder / "runs/mine/report/index.html").exists()

    probabilities = run(folder, ["-c", f"{serve}\nprint(probabilities.shape)"])
    assert probabilities.strip() == f"(1, {CLASSES})"

"""SIGKILL at random moments of AutoAttack: started again, it ends with the record of an undisturbed run."""

import json
import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
KILLS = 5
SAVE_OFTEN = """
import runpy, sys
from keras_robust.evaluation import attack_run
attack_run.SECONDS_BETWEEN_SAVES = 0
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def start(model, output):
    command = [
        *(sys.executable, "-c", SAVE_OFTEN, "launch/evaluate.py"),
        *("--suite=autoattack", f"--model={model}", f"--output={output}"),
        *("--dataset=mnist_small", "--split=test[:60]", "--batch_size=20", "--epsilon=0.15"),
    ]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def results(output):
    """Returns the record without what time and place change."""
    record = json.loads((output / "record.json").read_text())
    for name in ("seconds", "created", "command", "commit"):
        record.pop(name)
    for detail in record["details"].values():
        detail.pop("seconds")
    return record


@pytest.mark.slow
def test_five_kills_change_nothing(tmp_path):
    sys.path.insert(0, str(ROOT / "tests" / "golden"))
    import small_cnn

    model = tmp_path / "model.keras"
    small_cnn.keras_model().save(model)
    begin = time.monotonic()
    assert start(model, tmp_path / "undisturbed").wait() == 0
    duration = time.monotonic() - begin
    moments = random.Random(0)
    output = tmp_path / "killed"
    for _ in range(KILLS):
        process = start(model, output)
        time.sleep(moments.uniform(0.2, 0.7) * duration)
        process.kill()
        process.wait()
    assert start(model, output).wait() == 0
    assert results(output) == results(tmp_path / "undisturbed")
    assert not (output / "progress").exists()

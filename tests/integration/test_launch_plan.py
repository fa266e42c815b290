"""The launch script of plans as a user runs it."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_a_plan_is_printed_and_written(tmp_path):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT)}
    call = ["--config=configs/mnist_alp.py:alp", "--config.batch_size=256", "--accelerators=tpu-v5e-4"]
    options = ["--utilization=0.5", "--price_per_device_hour=1.5", f"--output={tmp_path}/plan.json"]
    command = [sys.executable, "launch/plan.py", *call, *options]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "AdversarialLogitPairing of lenet on 4 x TPU v5e" in result.stdout
    assert "at 1.5 per device hour" in result.stdout
    written = json.loads((tmp_path / "plan.json").read_text())
    assert (written["batch_size"], written["utilization"], written["epochs"]) == (256, 0.5, 100)

"""The demo, as `make demo` runs it, reaches its accuracy."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_the_demo_is_accurate_and_robust(tmp_path):
    recipe = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"python (launch/\S+\.py.*)", recipe.replace("\\\n", " "))
    assert len(commands) == 3
    for command in commands:
        arguments = shlex.split(command.replace("runs/demo", f"{tmp_path}/demo"))
        subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    record = json.loads((tmp_path / "demo/report/record.json").read_text())
    assert record["examples"] == 2000
    assert list(record["attacks"]) == ["PGD-40 (Linf 0.3, step 0.01, 5 restarts)"]
    assert record["clean_accuracy"] >= 0.96
    assert record["robust_accuracy"] >= 0.85
    assert (tmp_path / "demo/export/saved_model.pb").exists()
    assert (tmp_path / "demo/report/index.html").exists()

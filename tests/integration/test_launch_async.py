"""launch/train_async.py as a user runs it: a run with a real worker, and a mistake."""

import csv
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SMALL = [
    "--config=configs/mnist_small_pgd.py:2",
    "--config.train_split=train[:256]",
    "--config.validation_split=train[9500:9564]",
    "--config.batch_size=32",
    "--config.epochs=2",
]


def run(*arguments):
    """Runs the script to its end and returns what it printed."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "launch/train_async.py", *SMALL, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_train_async(tmp_path):
    options = [f"--workdir={tmp_path}/run", f"--data_dir={tmp_path}/tfds", "--publish_every=4", "--workers=1"]
    output = run(*options)
    assert f"{tmp_path}/run" in output
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert {"staleness", "own_batches", "dropped_batches", "replaced_workers"} < set(rows[0])


def test_a_mistake_is_one_readable_line(launch, tmp_path):
    options = [f"--workdir={tmp_path}/run", f"--data_dir={tmp_path}/tfds", "--max_staleness=9"]
    ended = launch("train_async", *SMALL, *options)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].startswith("ValueError: max_staleness must be at least publish_every")
    assert not (tmp_path / "run").exists()

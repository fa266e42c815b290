"""Two workers of a run, one of which is killed: both started again, the run ends as one that was not disturbed."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from local_cluster import local_cluster

import keras_robust  # noqa: F401  (its models can be loaded)

pytestmark = [pytest.mark.slow, pytest.mark.multi_device]
ROOT = pathlib.Path(__file__).parents[2]
RUN = [
    "--config=configs/mnist_small_alp.py",
    "--config.train_split=train[:1024]",
    "--config.validation_split=train[9500:9564]",
    "--config.batch_size=32",
    "--config.epochs=2",
    "--config.attack.steps=2",
    "--config.validation_attack.steps=2",
    "--config.deterministic=True",
    "--strategy=multi_worker",
    "--checkpoint_steps=10",
]


def start_workers(folder, data_dir):
    """Starts both workers of a run; the chief is the first."""
    processes = []
    for worker in local_cluster(2):
        environment = {**os.environ, **worker, "PYTHONPATH": str(ROOT)}
        processes.append(
            subprocess.Popen(
                [sys.executable, "launch/train.py", *RUN, f"--workdir={folder}", f"--data_dir={data_dir}"],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def finish(processes, exit_code):
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == exit_code, errors[-3000:]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_two_workers_of_which_one_is_killed(tmp_path, sent):
    """SIGKILL ends the other worker with an error that is none of the user's; SIGTERM to one ends both in one step."""
    data_dir = tmp_path / "data"
    chief, other = start_workers(tmp_path / "killed", data_dir)
    for line in chief.stdout:
        if "Epoch 2/2" in line:
            break
    time.sleep(1)
    other.send_signal(sent)
    finish([chief] if sent == signal.SIGKILL else [chief, other], exit_code=75)
    other.communicate()
    steps = int(keras.models.load_model(tmp_path / "killed" / "last.keras").steps_taken.numpy())
    assert 32 <= steps < 64
    finish(start_workers(tmp_path / "killed", data_dir), exit_code=0)
    finish(start_workers(tmp_path / "whole", data_dir), exit_code=0)
    killed, whole = (keras.models.load_model(tmp_path / name / "last.keras") for name in ("killed", "whole"))
    for resumed, undisturbed in zip(killed.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(resumed.numpy(), undisturbed.numpy())
    assert (tmp_path / "killed/history.csv").read_text() == (tmp_path / "whole/history.csv").read_text()

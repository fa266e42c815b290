"""Asynchronous runs in their workdirs: history, going on, what is refused, and one with real workers."""

import csv
import functools
import os
import pathlib
import signal
import sys
import time

import keras
import numpy as np
import pytest
from fake_pool import FakePool
from tiny_run import TINY

import keras_robust as kr
from keras_robust.distribution import asynchronous_generation

CONFIG = TINY | {
    "method": {"name": "adversarial_logit_pairing"},
    "attack": {"name": "pgd", "epsilon": 0.3, "steps": 1},
    "validation_attack": {"name": "fgsm", "epsilon": 0.3},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
    "epochs": 2,
}
COUNTS = ("own_batches", "dropped_batches", "replaced_workers")
# CSVLogger closes its file only at the regular end of a run; Ray leaves sockets to the garbage collector.
INTERRUPTED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def train(data_dir, tmp_path):
    """Trains in one folder with fake workers, or as `train` does."""

    def run(config=CONFIG, asynchronous=True, **options):
        if asynchronous:
            options["generation"] = functools.partial(asynchronous_generation, publish_every=2, pool=FakePool())
        return kr.training.train(config, tmp_path / "run", data_dir=data_dir, verbose=0, **options)

    return run


def history(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_history_has_staleness_and_counts(train, tmp_path):
    model = train()
    assert int(model.steps_taken.numpy()) == 6
    rows = history(tmp_path / "run")
    assert [float(row["own_batches"]) for row in rows] == [1, 1]
    assert [float(row["staleness"]) for row in rows] == pytest.approx([1.0, 1 / 3])
    assert {"val_robust_accuracy", "robust_accuracy", *COUNTS} <= set(rows[0])


class StopIn(keras.callbacks.Callback):
    """Ends a run within the second epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.steps_taken.numpy()) == 5:
            raise KeyboardInterrupt


@INTERRUPTED
def test_an_interrupted_run_goes_on_with_its_second_epoch(train, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(callbacks=[StopIn()])
    assert len(history(tmp_path / "run")) == 1
    model = train()
    assert int(model.steps_taken.numpy()) == 6
    assert [row["epoch"] for row in history(tmp_path / "run")] == ["0", "1"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_of_the_other_kind_is_refused(train, asynchronous):
    """Its history has other columns."""
    train(asynchronous=asynchronous)
    kind = "with" if asynchronous else "without"
    with pytest.raises(ValueError, match=f"Received: .* of a run {kind} workers"):
        train(asynchronous=not asynchronous)


def test_deterministic_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="deterministic=True"):
        kr.training.train_async({**CONFIG, "deterministic": True}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_ray_nothing_is_written(tmp_path, data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="pip install"):
        kr.training.train_async(CONFIG, tmp_path / "run", data_dir=data_dir)
    assert not (tmp_path / "run").exists()


def children(pid):
    """Returns the processes below `pid`, with their command lines."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            found[int(folder.name)] = command
            found |= children(int(folder.name))
    return found


class KillWorker(keras.callbacks.Callback):
    """Kills the worker in the second epoch, and lets the others have time."""

    killed = 0

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.2)
        if int(self.model.steps_taken.numpy()) == 15:
            for pid, command in children(os.getpid()).items():
                if "Crafter" in command:
                    os.kill(pid, signal.SIGKILL)
                    self.killed += 1


@pytest.mark.slow
@INTERRUPTED
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_real_workers_one_of_which_is_killed(tmp_path, data_dir):
    """It costs no step; a new one comes, and attacks batches in the end; nothing is left running."""
    config = {**CONFIG, "steps_per_epoch": 10, "epochs": 12}
    killer, before = KillWorker(), children(os.getpid())
    model = kr.training.train_async(
        config, tmp_path / "run", publish_every=5, data_dir=data_dir, callbacks=[killer], verbose=0
    )
    assert killer.killed == 1
    assert int(model.steps_taken.numpy()) == 120
    rows = history(tmp_path / "run")
    assert sum(float(row["replaced_workers"]) for row in rows) == 1
    assert float(rows[-1]["own_batches"]) < 10
    assert 0 < float(rows[-1]["staleness"]) <= 10
    assert np.isfinite([float(row["loss"]) for row in rows]).all()
    end = time.monotonic() + 30
    while set(children(os.getpid())) - set(before):
        assert time.monotonic() < end
        time.sleep(0.1)

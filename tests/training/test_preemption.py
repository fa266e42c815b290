"""Runs that are interrupted in the middle of an epoch end as one that was not."""

import os
import signal
import threading

import keras
import numpy as np
import pytest
from tiny_run import TINY

import keras_robust as kr
from keras_robust.training.preemption import Preempted, catch_sigterm

# CSVLogger closes its file only at the regular end of a run.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONFIG = TINY | {
    "method": {"name": "natural_training"},
    "validation_attack": {"name": "fgsm", "epsilon": 0.1},
    "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.02, "use_ema": True},
    "epochs": 2,
}


class At(keras.callbacks.Callback):
    """Does something after a step, or in the validation after it."""

    def __init__(self, step, action, *, in_validation=False):
        super().__init__()
        self.step, self.action, self.in_validation = step, action, in_validation

    def _look(self):
        if int(self.model.steps_taken.numpy()) == self.step:
            self.step = None
            self.action()

    def on_train_batch_begin(self, batch, logs=None):
        if not self.in_validation:
            self._look()

    def on_test_batch_end(self, batch, logs=None):
        if self.in_validation:
            self._look()


def send_sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def die():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_dir):
    """A run that was not interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    return train(workdir, data_dir), workdir


def train(workdir, data_dir, *callbacks, **options):
    return kr.training.train(CONFIG, workdir, data_dir=data_dir, callbacks=callbacks, verbose=0, **options)


def assert_as_whole(model, workdir, whole):
    expected, folder = whole
    assert int(model.steps_taken.numpy()) == 6
    for part, of_whole in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(part, of_whole, atol=1e-6)
    rows, expected_rows = (np.loadtxt(path / "history.csv", delimiter=",", skiprows=1) for path in (workdir, folder))
    np.testing.assert_allclose(rows, expected_rows, atol=1e-5)
    assert {path.name for path in workdir.iterdir()} == {path.name for path in folder.iterdir()}


@pytest.mark.multi_device
def test_sigterm_ends_a_run_that_then_goes_on_with_more_replicas(tmp_path, data_dir, whole):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match=r"SIGTERM at step 5.*The same call resumes"):
        train(tmp_path, data_dir, At(4, send_sigterm))
    assert signal.getsignal(signal.SIGTERM) is handler
    metrics = tmp_path / "metrics-5.npz"
    metrics.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"metrics-5\.npz"):
        train(tmp_path, data_dir)
    (tmp_path / "elsewhere").rename(metrics)
    assert_as_whole(train(tmp_path, data_dir, strategy="mirrored"), tmp_path, whole)


def test_sigterm_in_validation_lets_the_epoch_finish(tmp_path, data_dir, whole):
    with pytest.raises(Preempted, match="SIGTERM in epoch 1, which is saved"):
        train(tmp_path, data_dir, At(3, send_sigterm, in_validation=True))
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2
    assert_as_whole(train(tmp_path, data_dir), tmp_path, whole)


def test_a_run_that_dies_goes_on_from_its_last_checkpoint(tmp_path, data_dir, whole):
    """Checkpoints after steps 2 and 5 (counted from the end of an epoch, too)."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, data_dir, At(5, die), checkpoint_steps=2)
    assert [path.name for path in tmp_path.glob("metrics*")] == ["metrics-5.npz"]
    assert_as_whole(train(tmp_path, data_dir, checkpoint_steps=2), tmp_path, whole)


def test_sigterm_in_another_thread_is_left_alone():
    seen = []
    handler = signal.getsignal(signal.SIGTERM)

    def ask():
        with catch_sigterm() as received:
            seen.append((received(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert seen == [(False, handler)]


def test_checkpoint_steps_are_counted(tmp_path, data_dir):
    with pytest.raises(ValueError, match="checkpoint_steps=-1"):
        train(tmp_path, data_dir, checkpoint_steps=-1)

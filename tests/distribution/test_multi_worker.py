"""Two workers give the weights of two replicas in one process: it fails where Keras changes what they lean on."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import two_workers
from local_cluster import local_cluster

from keras_robust.distribution import create_strategy

pytestmark = pytest.mark.multi_device
SCRIPT = pathlib.Path(two_workers.__file__)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of one replica, of two mirrored ones, and of each of two workers."""
    folder = tmp_path_factory.mktemp("workers")
    processes = []
    for index, worker in enumerate(local_cluster(2)):
        environment = {**os.environ, **worker, "PYTHONPATH": str(SCRIPT.parents[2])}
        command = [sys.executable, str(SCRIPT), str(folder / f"{index}.npz")]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    of_one, of_two = (two_workers.train(create_strategy(name)) for name in ("one", "mirrored"))
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
    return of_one, of_two, *(dict(np.load(folder / f"{index}.npz")) for index in range(2))


def assert_close(one, two, names, tolerance=1e-5):
    assert names
    for name in names:
        np.testing.assert_allclose(one[name], two[name], atol=tolerance, err_msg=name)


def test_one_replica_two_replicas_and_two_workers_agree(results):
    """20 steps of adversarial logit pairing on the same global batches, from the clean images."""
    one, *others = results
    for other in others:
        assert_close(one, other, [name for name in one if name.startswith("still_weight")])
        assert_close(one, other, [name for name in one if name.startswith("still_history")], tolerance=1e-4)


def test_random_starts_differ_between_replicas_and_not_between_runs(results):
    one, mirrored, first, second = results
    names = [name for name in one if name.startswith("random_weight")]
    assert_close(mirrored, first, names)
    assert_close(mirrored, second, names)
    assert max(np.abs(one[name] - first[name]).max() for name in names) > 1e-4


def test_state_predictions_and_metrics_are_those_of_all_workers(results):
    """Batches are halved as among replicas of one process; `predict` keeps the order of the images."""
    _, mirrored, first, second = results
    for worker in (first, second):
        assert_close(mirrored, worker, ["free_state", "predicted", "evaluated"])
        assert_close(mirrored, worker, [name for name in mirrored if name.startswith("free_weight")])
    assert first["free_state"].shape[0] == two_workers.BATCH
    assert np.abs(first["free_state"]).max() > 0
    assert len(first["predicted"]) == two_workers.EXAMPLES

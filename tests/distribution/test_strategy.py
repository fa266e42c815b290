"""Strategies by name, and what is refused."""

import json

import pytest
import tensorflow as tf

from keras_robust.distribution import create_strategy, strategy


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def test_strategies_by_name():
    assert create_strategy("auto").num_replicas_in_sync == 1
    assert create_strategy("one").num_replicas_in_sync == 1
    assert create_strategy("mirrored").num_replicas_in_sync == 2
    assert create_strategy("mirrored") is create_strategy("mirrored")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("multi", {}, "strategy='multi'"),
        ("mirrored", {"tpu": "local"}, "strategy='mirrored', tpu='local'"),
        ("tpu", {"tpu": "local"}, "a TPU that this machine can reach. Received: tpu='local'"),
        ("auto", {"tpu": "local"}, "tpu='local'"),
        ("multi_worker", {}, "TF_CONFIG='' and no SLURM_PROCID"),
    ],
)
def test_what_cannot_be_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_strategy(name, **options)


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": 3}', '{"cluster": {"worker": 1}}'])
def test_a_malformed_cluster_is_named(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG must be JSON with a cluster and a task"):
        create_strategy("auto")


@pytest.mark.parametrize("name", ["auto", "multi_worker"])
def test_workers_are_found_in_the_environment(monkeypatch, name):
    cluster = {"worker": ["a:1", "b:1"]}
    seen = []
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}}))
    monkeypatch.setattr(
        tf.distribute, "MultiWorkerMirroredStrategy", lambda *, cluster_resolver: seen.append(cluster_resolver) or name
    )
    strategy._multi_worker.cache_clear()
    assert create_strategy(name) == name
    strategy._multi_worker.cache_clear()
    assert seen[0].cluster_spec().as_dict() == cluster
    assert seen[0].task_id == 1


def test_tasks_of_slurm(monkeypatch):
    """Two nodes with two tasks each, of which this is the third."""
    seen = []
    step = {"NUM_TASKS": "4", "NODELIST": "gpu[7-8]", "TASKS_PER_NODE": "2(x2)"}
    monkeypatch.setenv("SLURM_PROCID", "2")
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_STEP_{name}", value)
    monkeypatch.setattr(
        tf.distribute, "MultiWorkerMirroredStrategy", lambda *, cluster_resolver: seen.append(cluster_resolver)
    )
    strategy._multi_worker.cache_clear()
    create_strategy("multi_worker")
    strategy._multi_worker.cache_clear()
    assert seen[0].cluster_spec().as_dict() == {"worker": ["gpu7:8888", "gpu7:8889", "gpu8:8888", "gpu8:8889"]}
    assert (seen[0].task_type, seen[0].task_id) == ("worker", 2)


def test_one_worker_in_the_environment_is_no_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1"]}, "task": {}}))
    assert create_strategy("auto").num_replicas_in_sync == 1

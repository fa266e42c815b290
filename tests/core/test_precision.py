"""The dtype of images and logits, and that of attacks where the machine decides."""

import os
import pathlib
import subprocess
import sys
import time

import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks import as_model_fn
from keras_robust.core import execution
from keras_robust.core.execution import bfloat16_pays, full_precision, resolve_compute_dtype

pytestmark = pytest.mark.graph

ROOT = pathlib.Path(__file__).parents[2]
CPU_FLAGS = pathlib.Path("/proc/cpuinfo")


@pytest.mark.parametrize("dtype", ["float16", tf.bfloat16, "float32", tf.uint8])
def test_all_but_float64_are_float32(dtype):
    assert full_precision(dtype) == "float32"
    assert full_precision() == "float32"


def test_float64(float64):
    assert full_precision() == full_precision(tf.float64) == "float64"
    assert full_precision("float32") == "float32"


@pytest.fixture
def fresh():
    """What was found out before is forgotten, and what is found out in the test is too."""
    bfloat16_pays.cache_clear()
    yield
    bfloat16_pays.cache_clear()


@pytest.fixture
def devices(monkeypatch, fresh):
    """Lets TensorFlow have other devices: their kinds, and the compute capabilities of GPUs."""

    def have(kind, *capabilities):
        details = dict(enumerate(capabilities))
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda asked: [*details] if asked == kind else [])
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details[gpu])

    return have


def timings(monkeypatch, **seconds):
    """Lets a convolution take so many seconds by its dtype; one of None cannot run."""

    def convolution(dtype):
        def run():
            if seconds[dtype] is None:
                raise tf.errors.AbortedError(None, None, "could not create a primitive descriptor")
            time.sleep(seconds[dtype])

        return run

    monkeypatch.setattr(execution, "_convolution", convolution)


@pytest.mark.parametrize(
    ("single", "half", "chosen"),
    [(0.02, 0.01, "bfloat16"), (0.01, 0.02, "float32"), (0.01, None, "float32")],
    ids=["faster", "slower", "impossible"],
)
def test_a_cpu_is_measured_once(single, half, chosen, monkeypatch, devices):
    devices("none")
    timings(monkeypatch, float32=single, bfloat16=half)
    assert resolve_compute_dtype("auto") == chosen
    timings(monkeypatch)  # a second measurement would fail
    assert resolve_compute_dtype("auto") == chosen
    assert [resolve_compute_dtype(dtype) for dtype in (None, "float16")] == [None, "float16"]


def test_one_slow_run_does_not_decide(monkeypatch, devices):
    """As when another process takes the processor."""
    devices("none")
    taken = iter([9, 9, 2, 1, 2, 30, 2, 1])  # float32 and bfloat16 in turns; the first round warms up
    monkeypatch.setattr(execution, "_seconds", lambda run: next(taken))
    assert bfloat16_pays()


@pytest.mark.parametrize(
    ("kind", "details", "pays"),
    [
        ("TPU", [{}], True),
        ("GPU", [{"compute_capability": (9, 0)}], True),
        ("GPU", [{"compute_capability": (8, 0)}, {"compute_capability": (8, 6)}], True),
        ("GPU", [{"compute_capability": (7, 5)}], False),
        ("GPU", [{"compute_capability": (8, 0)}, {"compute_capability": (7, 0)}], False),
        ("GPU", [{"device_name": "not by NVIDIA"}], False),
    ],
)
def test_accelerators_are_asked(kind, details, pays, monkeypatch, devices):
    devices(kind, *details)
    timings(monkeypatch)  # nothing is measured
    assert bfloat16_pays() == pays


@pytest.mark.parametrize("where", ["XLA", "replicas"])
def test_it_is_found_out_while_an_attack_is_traced(where, two_replicas, linear_classifier, fresh):
    """Nothing of the measurement is left in the graph."""
    strategy = two_replicas if where == "replicas" else tf.distribute.get_strategy()
    with strategy.scope():
        classifier = linear_classifier(shape=(4, 4, 1))
    attack = kr.attacks.FGSM(kr.Linf(0.1), compute_dtype="auto")

    def attacked(images):
        return attack(as_model_fn(classifier, compute_dtype=attack.compute_dtype), images, tf.zeros(2, tf.int32), 0)

    run = tf.function(lambda images: strategy.run(attacked, (images,)), jit_compile=where == "XLA")
    found = strategy.experimental_local_results(run(tf.zeros((2, 4, 4, 1))))
    assert bfloat16_pays.cache_info().currsize == 1
    assert [images.shape for images in found] == [(2, 4, 4, 1)] * strategy.num_replicas_in_sync


@pytest.mark.skipif(
    not CPU_FLAGS.exists() or "avx512_bf16" not in CPU_FLAGS.read_text() or tf.config.list_physical_devices("GPU"),
    reason="a CPU without AVX512-BF16",
)
def test_bfloat16_where_the_processor_has_it(fresh):
    assert resolve_compute_dtype("auto") == "bfloat16"


def test_float32_without_onednn():
    """TensorFlow's own convolutions in bfloat16 take 9 times as long as in float32."""
    code = "import keras_robust as kr; print(kr.attacks.FGSM(kr.Linf(0.1), compute_dtype='auto').name)"
    changes = {"TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **changes}, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "PGD-1 (Linf 0.1, step 0.1, start none, float32)"

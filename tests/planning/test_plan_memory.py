"""Memory of a training step: by hand, as TensorFlow takes it from the system, and as XLA lays it out."""

import pathlib
import re
import subprocess
import sys

import keras
import pytest

import keras_robust as kr
from keras_robust.tools.planning.costs import USABLE, Memory, cost_of, memory_of
from keras_robust.tools.planning.passes import training_passes

pytestmark = pytest.mark.graph

ROOT = pathlib.Path(__file__).parents[2]
BALL = kr.Linf(0.3)
ARCHITECTURES = {"lenet": kr.architectures.LeNet, "resnet20": kr.architectures.ResNet20}


def planned(model, batch_size, optimizer=None, available=1e9):
    model.compile(optimizer or keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    costs = [cost_of(one) for one in training_passes(model, batch_size)]
    return memory_of(model, costs, batch_size, available)


def test_lenet_by_hand():
    """Weights, Adam's two moments and an average of the weights; activations of 28 x 28 x 32 and what follows."""
    optimizer = keras.optimizers.Adam(1e-3, use_ema=True)
    memory = planned(kr.NaturalTraining(kr.architectures.LeNet()), 7, optimizer)
    weights = 4 * 3_274_634
    assert memory.weights == pytest.approx(weights, abs=100)  # and counters
    assert memory.gradients == weights
    assert memory.optimizer == pytest.approx(3 * weights, abs=100)
    kept = 784 + 28 * 28 * 32 + 14 * 14 * 32 + 14 * 14 * 64 + 7 * 7 * 64 + 1024 + 10
    assert memory.activations == 7 * 4 * (kept + 2 * 28 * 28 * 32)
    assert memory.method == 0


def test_pairing_keeps_twice_as_many_activations_as_pgd():
    attack = kr.attacks.PGD(BALL, steps=2)
    alone = planned(kr.AdversarialTraining(kr.architectures.LeNet(), attack), 8)
    paired = planned(kr.AdversarialLogitPairing(kr.architectures.LeNet(), attack), 8)
    assert paired.activations == 2 * alone.activations
    assert paired.largest_batch == pytest.approx(alone.largest_batch / 2, abs=1)


def test_what_a_method_keeps_between_steps():
    """A perturbation per image of free training; a queue of three batches with labels and weights."""
    free = kr.FreeAdversarialTraining(kr.architectures.LeNet(), kr.attacks.FGSM(BALL), replays=2)
    assert planned(free, 8).method == 8 * 784 * 4
    stale = kr.StaleAdversarialTraining(kr.architectures.LeNet(), kr.attacks.FGSM(BALL), staleness=3)
    assert planned(stale, 8).method == 3 * 8 * (784 * 4 + 8 + 4)


def test_the_largest_batch_is_what_fits():
    options = {"weights": 100, "gradients": 100, "optimizer": 100, "method": 4, "activations": 36, "batch_size": 4}
    assert Memory(available=1000 / USABLE, **options).largest_batch == 70
    assert Memory(available=309 / USABLE, **options).largest_batch == 0
    assert Memory(available=100, **options).largest_batch == 0


STEP = """
import pathlib, re, sys
import keras, tensorflow as tf
import keras_robust as kr

make, batch_size = getattr(kr.architectures, sys.argv[1]), int(sys.argv[2])
model = kr.NaturalTraining(make())
model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.optimizer.build(model.trainable_variables)
step = tf.function(lambda images, labels: model.train_step((images, labels))["loss"], jit_compile=sys.argv[3] == "xla")

def peak(count):
    images = tf.zeros((count, *model.classifier.input_shape[1:]))
    for _ in range(3):
        step(images, tf.zeros(count, tf.int64)).numpy()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

print("peak per image", (-peak(8) + peak(batch_size)) / batch_size)
"""


def run_step(architecture, batch_size, how, **environment):
    command = [sys.executable, "-c", STEP, architecture, str(batch_size), how]
    environment = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LeNet", "ResNet20"])
def test_the_peak_that_tensorflow_reaches_is_within_6_percent(name):
    """Of the process, between a batch of 8 and one of 1024: activations, gradients and the images themselves.

    Operations run one after the other: the gradients of those that run side by side are in memory together. What else a
    process does can only raise its peak, so the lower one of two counts.
    """
    measured = min(float(run_step(name, 1024, "graph", TF_NUM_INTEROP_THREADS="1").split()[-1]) for _ in range(2))
    memory = planned(kr.NaturalTraining(getattr(kr.architectures, name)()), 1024)
    assert memory.activations / 1024 == pytest.approx(measured, rel=0.06)


@pytest.mark.slow
@pytest.mark.xla
def test_the_buffers_that_xla_lays_out_are_within_a_tenth(tmp_path):
    """Of a ResNet-20, as XLA reports them; of LeNet, XLA's convolutions on CPU add copies of their own."""
    run_step("ResNet20", 128, "xla", XLA_FLAGS=f"--xla_dump_to={tmp_path}")
    reports = [path.read_text() for path in tmp_path.glob("*memory-usage-report.txt")]
    laid_out = max(int(re.search(r"Total bytes used: (\d+)", report)[1]) for report in reports)
    memory = planned(kr.NaturalTraining(kr.architectures.ResNet20()), 128)
    assert memory.total == pytest.approx(laid_out, rel=0.1)

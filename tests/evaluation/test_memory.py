"""An evaluation leaves nothing behind: in a callback after each epoch, the memory of the process must not grow."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, gc, sys
import numpy as np
import keras_robust as kr

def memory():  # MiB that the process holds
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

classifier = kr.architectures.LeNet()
images = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
labels = classifier(images).numpy().argmax(axis=1)
ball = kr.Linf(0.001)
attack = {"pgd": kr.attacks.PGD(ball, steps=2), "autoattack": kr.evaluation.AutoAttack(kr.Linf(0.3))}[sys.argv[1]]
calls, first = int(sys.argv[2]), int(sys.argv[3])
for call in range(calls):
    kr.evaluate(classifier, (images, labels), attack, checks=False, verbose=False, batch_size=4)
    if call == first - 1:
        before = memory()
print("GROWTH", memory() - before)
"""


def growth(attack: str, calls: int, first: int) -> float:
    """MiB by which a process grows from evaluation number `first` to the last."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "MALLOC_ARENA_MAX": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", SCRIPT, attack, str(calls), str(first)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("GROWTH"))
    print(attack, line)
    return float(line.split()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_evaluations_do_not_add_up():
    """Each attack is compiled anew: kept, its graphs are 4 MiB or more per evaluation."""
    assert growth("pgd", 12, 4) < 8 * 1.5


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("attack", "calls"), [("pgd", 200), ("autoattack", 50)])
def test_hundreds_of_evaluations_do_not_add_up(attack, calls):
    assert growth(attack, calls, 10) < 20

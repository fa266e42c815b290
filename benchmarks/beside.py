"""Times training steps of this code beside those of an earlier commit, or beside hand-written PyTorch, in turn.

Command:  python benchmarks/beside.py --before=COMMIT [--networks=lenet,resnet20] [--rounds=15] [--copying]
          python benchmarks/beside.py --torch=/path/of/an/environment/bin/python [...]

Each code runs in a process of its own, which waits while another one is timed. In a round every process takes one step
of each kind, so that changes in the speed of the machine affect all of them. It prints one JSON object per network and
step: medians over the rounds in milliseconds, and the median of the ratios of each round. `--copying` keeps one core
busy with copies of memory.

The steps are those of `step_cost.py` (jit_compile=False), and of `accelerator_torch.py` (`torch.compile`, channels
last): a natural step, adversarial training and logit pairing with PGD, the attack alone, and four updates of free
training.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS = ("natural", "pgd", "adversarial_logit_pairing", "attack", "free")
BATCH_SIZES = {"lenet": 128, "resnet20": 128, "preact_resnet18": 32}
WARM_UPS = 3


def classifiers() -> dict[str, Callable[[], Any]]:
    """Returns the networks by name, of the keras_robust that is imported."""
    import step_cost

    import keras_robust as kr

    return {**step_cost.CLASSIFIERS, "preact_resnet18": kr.architectures.PreActResNet18}


def toolkit_steps(network: str, batch_size: int, attack_steps: int) -> dict[str, Callable[[], Any]]:
    """Returns the steps of the keras_robust that is imported, of this commit or an earlier one."""
    import keras
    import numpy as np
    import step_cost
    import tensorflow as tf

    import keras_robust as kr

    make = classifiers()[network]
    random = np.random.default_rng(0)
    images = tf.constant(random.random((batch_size, *make().input_shape[1:]), np.float32))
    batch = (images, tf.constant(random.integers(0, 10, batch_size)))

    def training(name: str) -> Callable[[], Any]:
        keras.utils.set_random_seed(0)
        model = step_cost.compiled(step_cost.methods(attack_steps)[name][0](make()))
        model.make_replica_state(*batch, replicas=1)
        return step_cost.training_step(model, batch)

    attack, model_fn = kr.attacks.PGD(kr.Linf(0.3), steps=attack_steps), kr.attacks.as_model_fn(make())
    run = tf.function(lambda images, labels: attack(model_fn, images, labels, 0), autograph=False)
    return {name: (lambda: run(*batch).numpy()) if name == "attack" else training(name) for name in STEPS}


def torch_steps(network: str, batch_size: int, attack_steps: int) -> dict[str, Callable[[], Any]]:
    """Returns the same steps in PyTorch."""
    import accelerator_torch

    options = argparse.Namespace(device="cpu", steps=attack_steps, batch_size=batch_size, precision="float32")
    return {name: getattr(accelerator_torch.Steps(network, options), name) for name in STEPS}


def serve(steps: dict[str, Callable[[], Any]]) -> None:
    """Takes the step of each name that comes in, and answers with its seconds."""
    for _ in range(WARM_UPS):
        for step in steps.values():
            step()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        steps[line.strip()]()
        print(f"seconds {time.perf_counter() - start}", flush=True)


class Worker:
    """A process that takes steps.

    Args:
        python: the interpreter.
        folder: of the code.
        arguments: kind of the steps, network, batch size and attack steps.
    """

    def __init__(self, python: str, folder: pathlib.Path, *arguments: Any) -> None:
        path = os.pathsep.join([str(folder), str(folder / "benchmarks")])
        # -P: the modules of the other code, not those beside this file.
        command = [python, "-P", str(pathlib.Path(__file__).resolve()), "--serve", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
        self._process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, **options)
        self._answer("ready")

    def seconds(self, step: str) -> float:
        """Takes a step, and returns how long it took."""
        self._process.stdin.write(f"{step}\n")
        self._process.stdin.flush()
        return float(self._answer("seconds").split()[1])

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self, word: str) -> str:
        for line in self._process.stdout:
            if line.startswith(word):
                return line
        raise RuntimeError(f"The process of {self._process.args} has ended; run it by hand to see why.")


@contextlib.contextmanager
def code_of(commit: str) -> Iterator[pathlib.Path]:
    """Makes a folder with the code of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield pathlib.Path(folder)


@contextlib.contextmanager
def copying(active: bool) -> Iterator[None]:
    """Copies memory in a process of its own, if `active`."""
    program = "import array\na = array.array('b', bytes(2**28))\nwhile True: b = a[:]"
    process = subprocess.Popen([sys.executable, "-c", program]) if active else None
    try:
        yield
    finally:
        if process:
            process.kill()


def measure(network: str, workers: dict[str, Worker], rounds: int) -> None:
    """Prints what each step takes in both workers."""
    (name, ours), (other_name, other) = workers.items()
    for step in STEPS:
        seconds = [(ours.seconds(step), other.seconds(step)) for _ in range(rounds)]
        medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
        ratio = statistics.median(one / two for one, two in seconds)
        times = {f"{key}_ms": round(1e3 * median, 1) for key, median in zip((name, other_name), medians, strict=True)}
        print(json.dumps({"network": network, "step": step, "ratio": round(ratio, 3), **times}), flush=True)


def main() -> None:
    """Starts the processes, and times network after network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="0b202dc", help="commit to compare with")
    parser.add_argument("--torch", help="Python interpreter with PyTorch, to compare with that instead")
    parser.add_argument("--networks", default="resnet20,lenet,preact_resnet18")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--attack_steps", type=int, default=7)
    parser.add_argument("--copying", action="store_true", help="keep one core busy with copies of memory")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        kind, network, *sizes = options.serve
        serve({"toolkit": toolkit_steps, "torch": torch_steps}[kind](network, *map(int, sizes)))
        return
    with code_of(options.before) as before, copying(options.copying):
        for network in options.networks.split(","):
            sizes = (network, BATCH_SIZES[network], options.attack_steps)
            workers = {"now": Worker(sys.executable, ROOT, "toolkit", *sizes)}
            if options.torch:
                workers["torch"] = Worker(options.torch, ROOT, "torch", *sizes)
            else:
                workers["before"] = Worker(sys.executable, before, "toolkit", *sizes)
            measure(network, workers, options.rounds)
            for worker in workers.values():
                worker.close()


if __name__ == "__main__":
    main()

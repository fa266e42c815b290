"""Times AutoAttack and its PyTorch reference, and PGD-100 and that of the Adversarial Robustness Toolbox (ART).

Command:  python benchmarks/autoattack.py --weights=advertorch_adv.npz --mnist_dir=DIR --reference_python=PATH

Each contender runs in its own process, one after the other, with all cores, on the same first test images of MNIST at
Linf 0.3. Its seconds are those of the attack, including compilation, without process start and loading. It prints JSON
lines: one per contender, then one with the ratio of each pair. PGD is timed with batches of 32, ART's default, and of
`--batch_size`. `--weights` is a published classifier of advertorch (see `published_classifiers.py`).
`--reference_python` is an interpreter with torch and pyautoattack, `--art_python` one with tensorflow and
adversarial-robustness-toolbox. Without the interpreter, the pair is left out.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags
from published_classifiers import first_digits, keras_classifier, torch_classifier

WEIGHTS = flags.DEFINE_string("weights", None, "File of the classifier's weights.", required=True)
MNIST_DIR = flags.DEFINE_string("mnist_dir", None, "Folder of MNIST's official files.")
EXAMPLES = flags.DEFINE_integer("examples", 500, "Number of test images, from the first.")
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 250, "Number of images attacked at a time. 250 is the reference's default."
)
REFERENCE = flags.DEFINE_string("reference_python", None, "Interpreter with torch and pyautoattack.")
ART = flags.DEFINE_string("art_python", None, "Interpreter with tensorflow and adversarial-robustness-toolbox.")
CONTENDER = flags.DEFINE_string("contender", None, "For subprocesses: run only this contender, on --workload.")
WORKLOAD = flags.DEFINE_string("workload", None, "For subprocesses: file of images and labels.")
EPSILON = 0.3
PGD_STEPS, PGD_STEP_SIZE = 100, 0.01
ART_BATCH_SIZE = 32
"""ART's default."""


def autoattack_here(images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns robust accuracy and seconds of this library's AutoAttack."""
    import keras_robust as kr

    suite = kr.evaluation.AutoAttack(kr.Linf(EPSILON))
    return _here(suite, images, labels)


def pgd_here(images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns robust accuracy and seconds of this library's PGD, which gives up no example early within a start."""
    import keras_robust as kr

    return _here(kr.attacks.PGD(kr.Linf(EPSILON), steps=PGD_STEPS, step_size=PGD_STEP_SIZE), images, labels)


def _here(attacks: Any, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    import keras_robust as kr

    model = keras_classifier(WEIGHTS.value)
    begin = time.perf_counter()
    report = kr.evaluate(model, (images, labels), attacks, checks=False, batch_size=BATCH_SIZE.value, verbose=False)
    return report.robust_accuracy, time.perf_counter() - begin


def autoattack_reference(images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns robust accuracy and seconds of the PyTorch reference, in the memory layout that is faster here."""
    import torch
    from pyautoattack import AutoAttack

    def prepare(layout: torch.memory_format) -> tuple[Any, Any]:
        model = torch_classifier(WEIGHTS.value).to(memory_format=layout)
        return model, torch.tensor(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)

    def gradient_seconds(layout: torch.memory_format) -> float:
        model, inputs = prepare(layout)
        batch = inputs[: BATCH_SIZE.value].requires_grad_()
        begin = time.perf_counter()
        for _ in range(20):
            torch.autograd.grad(model(batch).sum(), batch)
        return time.perf_counter() - begin

    layouts = [torch.contiguous_format, torch.channels_last]
    model, inputs = prepare(min(layouts * 2, key=gradient_seconds))
    targets = torch.tensor(labels)
    attack = AutoAttack(model, norm="Linf", eps=EPSILON, seed=0, device="cpu")
    begin = time.perf_counter()
    attacked = attack.run_standard_evaluation(inputs, targets, batch_size=BATCH_SIZE.value)[0]
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        return float((model(attacked).argmax(1) == targets).float().mean()), seconds


def pgd_art(images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns robust accuracy and seconds of ART's PGD for TensorFlow 2."""
    import keras
    import tensorflow as tf
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    model = keras_classifier(WEIGHTS.value)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier = TensorFlowV2Classifier(
        model=model, nb_classes=10, input_shape=images.shape[1:], loss_object=loss, clip_values=(0.0, 1.0)
    )
    settings = {"eps": EPSILON, "eps_step": PGD_STEP_SIZE, "max_iter": PGD_STEPS, "num_random_init": 1}
    attack = ProjectedGradientDescent(classifier, verbose=False, batch_size=BATCH_SIZE.value, **settings)
    begin = time.perf_counter()
    attacked = attack.generate(images, labels)
    seconds = time.perf_counter() - begin
    return float((tf.argmax(model(attacked), 1).numpy() == labels).mean()), seconds


CONTENDERS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[float, float]]] = {
    "autoattack": autoattack_here,
    "autoattack_reference": autoattack_reference,
    "pgd": pgd_here,
    "pgd_art": pgd_art,
}


def run_contender(name: str, python: str, workload: str, batch_size: int) -> dict[str, Any]:
    """Returns what a contender printed, from a process of its own."""
    command = [python, __file__, f"--contender={name}", f"--workload={workload}", f"--weights={WEIGHTS.value}"]
    command.append(f"--batch_size={batch_size}")
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main(_: list[str]) -> None:
    """Runs one contender, or all of them and prints ratios."""
    if CONTENDER.value:
        with np.load(WORKLOAD.value) as workload:
            robust, seconds = CONTENDERS[CONTENDER.value](workload["images"], workload["labels"])
        result = {"contender": CONTENDER.value, "batch_size": BATCH_SIZE.value, "robust_accuracy": robust}
        print(json.dumps(result | {"seconds": round(seconds, 1)}))
        return
    pairs = (
        ("pgd", "pgd_art", ART.value, ART_BATCH_SIZE),
        ("pgd", "pgd_art", ART.value, BATCH_SIZE.value),
        ("autoattack", "autoattack_reference", REFERENCE.value, BATCH_SIZE.value),
    )
    with tempfile.NamedTemporaryFile(suffix=".npz") as workload:
        images, labels = first_digits(MNIST_DIR.value, EXAMPLES.value)
        np.savez(workload.name, images=images, labels=labels)
        for name, other, python, batch_size in pairs:
            if python is None:
                continue
            ours = run_contender(name, sys.executable, workload.name, batch_size)
            theirs = run_contender(other, python, workload.name, batch_size)
            ratio = round(ours["seconds"] / theirs["seconds"], 3)
            for line in (ours, theirs, {"ratio": f"{name} / {other}", "batch_size": batch_size, "value": ratio}):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    app.run(main)

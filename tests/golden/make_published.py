"""Computes what each part of AutoAttack leaves of published classifiers, with PyTorch, and writes published.json.

Command:  KERAS_ROBUST_MNIST_DIR=DIR KERAS_ROBUST_CLASSIFIERS_DIR=DIR python tests/golden/make_published.py
Needs torch and pyautoattack (the AutoAttack of Croce & Hein, with a seed). Each attack is run alone on the first 500
test images of MNIST, in the order of the official files, at Linf 0.3. APGD-CE, whose single start makes it vary most
(on fast_fgsm 83.6 to 85.4 %), is run with ten seeds; the number is the mean.
"""

import json
import os
import pathlib
import sys

import torch
from pyautoattack import AutoAttack

sys.path.append(str(pathlib.Path(__file__).parents[2] / "benchmarks"))
from published_classifiers import first_digits, torch_classifier

EXAMPLES, EPSILON = 500, 0.3
SEEDS = {"apgd-ce": 10, "apgd-t": 1, "fab-t": 1, "square": 1}


def main() -> None:
    """Runs every attack alone on every classifier."""
    folder = pathlib.Path(os.environ["KERAS_ROBUST_CLASSIFIERS_DIR"])
    images, labels = first_digits(os.environ["KERAS_ROBUST_MNIST_DIR"], EXAMPLES)
    inputs, targets = torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)
    results: dict[str, dict[str, float]] = {}
    for name in ("fast_fgsm", "advertorch_adv"):
        model = torch_classifier(folder / f"{name}.npz")
        results[name] = {}
        for attack, seeds in SEEDS.items():
            robust = []
            for seed in range(seeds):
                runner = AutoAttack(model, norm="Linf", eps=EPSILON, seed=seed, device="cpu")
                runner.attacks_to_run = [attack]
                attacked = runner.run_standard_evaluation(inputs, targets, batch_size=EXAMPLES)[0]
                with torch.no_grad():
                    robust.append(float((model(attacked).argmax(1) == targets).double().mean()))
            results[name][attack] = sum(robust) / seeds
            print(name, attack, robust, flush=True)
    path = pathlib.Path(__file__).with_name("published.json")
    path.write_text(json.dumps({"examples": EXAMPLES, "epsilon": EPSILON, "robust": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

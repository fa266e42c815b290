"""Computes Auto-PGD's golden numbers with its authors' PyTorch code and writes apgd.json.

Command:  python tests/golden/make_apgd.py
Needs torch and pyautoattack (the AutoAttack of Croce & Hein, with a seed).
"""

import json

import numpy as np
import small_cnn
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

BALLS = {"linf": ("Linf", [0.15, 0.2]), "l2": ("L2", [1.5, 2.0]), "l1": ("L1", [6.0, 10.0])}
TRACE_STEPS = [1, 2, 3, 5, 8, 10, 20, 100]


def run(norm: str, epsilon: float, steps: int, kind: str, larger_radii: bool = False) -> dict:
    """Returns how many digits stay right for each seed, and for untargeted runs the mean best loss of one seed."""
    images, labels = torch_digits()
    model = small_cnn.torch_model()
    result = {
        "norm": norm,
        "epsilon": epsilon,
        "steps": steps,
        "kind": kind,
        "larger_radii": larger_radii,
        "robust": [],
    }
    options = {"n_iter": steps, "norm": BALLS[norm][0], "eps": epsilon, "device": "cpu", "use_largereps": larger_radii}
    for seed in range(2 if kind == "targeted" else 6):
        if kind == "targeted":
            attack = APGDAttack_targeted(model, n_target_classes=9, seed=seed, **options)
        else:
            attack = APGDAttack(model, loss=kind, seed=seed, **options)
        attacked = attack.perturb(images, labels)
        result["robust"].append(int((model(attacked).argmax(1) == labels).sum()))
    if kind != "targeted" and not larger_radii:
        torch.manual_seed(1)
        attack.init_hyperparam(images)
        loss = attack.attack_single_run(images, labels)[2]
        result["mean_loss"] = round(float(loss.mean()), 6)
    return result


def trace(norm: str, epsilon: float) -> dict:
    """Returns checksums of the best points and the best losses from `start_points`."""
    images, labels = torch_digits()
    start = torch.tensor(start_points(norm, epsilon)).permute(0, 3, 1, 2)
    result = {"norm": norm, "epsilon": epsilon, "steps": TRACE_STEPS, "best_loss": [], "weighted_sums": []}
    weights = torch.tensor(np.random.default_rng(0).normal(size=(1, 28, 28, 1)).astype(np.float32)).permute(0, 3, 1, 2)
    for steps in TRACE_STEPS:
        attack = APGDAttack(small_cnn.torch_model(), n_iter=steps, norm=BALLS[norm][0], eps=epsilon, device="cpu")
        attack.init_hyperparam(images)
        best, _, loss, _ = attack.attack_single_run(images, labels, x_init=start)
        result["best_loss"].append([round(value, 6) for value in loss.tolist()])
        result["weighted_sums"].append([round(value, 5) for value in (best * weights).sum((1, 2, 3)).tolist()])
    return result


def start_points(norm: str, epsilon: float) -> np.ndarray:
    """Returns float32 (100, 28, 28, 1): the digits plus noise inside the ball; the tests draw the same."""
    images, _ = small_cnn.digits()
    noise = np.random.default_rng(1).uniform(-1, 1, images.shape).astype(np.float32)
    if norm == "l2":
        noise /= np.sqrt((noise**2).sum(axis=(1, 2, 3), keepdims=True))
    return np.clip(images + np.float32(0.5 * epsilon) * noise, 0, 1)


def torch_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the digits as PyTorch has them."""
    images, labels = small_cnn.digits()
    return torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(labels)


def main() -> None:
    """Computes and writes."""
    torch.set_num_threads(1)
    runs = []
    for norm, (_, epsilons) in BALLS.items():
        for epsilon in epsilons:
            runs += [run(norm, epsilon, 100, kind) for kind in ("ce", "dlr", "targeted")]
            runs.append(run(norm, epsilon, 20, "ce"))
    runs += [
        run("l1", epsilon, 100, kind, larger_radii=True) for epsilon in BALLS["l1"][1] for kind in ("ce", "targeted")
    ]
    traces = [trace("linf", 0.1), trace("l2", 1.0)]
    text = json.dumps({"runs": runs, "traces": traces})
    (small_cnn.FOLDER / "apgd.json").write_text(text + "\n")
    for result in runs:
        print(result)


if __name__ == "__main__":
    main()

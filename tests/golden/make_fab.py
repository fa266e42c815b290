"""Computes the golden numbers of FAB with the reference code of AutoAttack (pyautoattack 0.2.0) and writes fab.json.

Command:  python tests/golden/make_fab.py   (needs torch and pyautoattack, not TensorFlow; ten minutes)
"""

import json

import numpy as np
import small_cnn
import torch
from pyautoattack.fab_projections import projection_l1, projection_l2, projection_linf
from pyautoattack.fab_pt import FABAttack_PT

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
TARGETED = {"linf": [0.15, 0.2], "l2": [1.5, 2.0], "l1": [6.0, 10.0]}
UNTARGETED_STEPS = 20
TARGETS = 9
PROJECTIONS = {"linf": projection_linf, "l2": projection_l2, "l1": projection_l1}


def norms(difference: torch.Tensor, norm: str) -> torch.Tensor:
    """Returns the norm per example."""
    return torch.linalg.vector_norm(difference.flatten(1), {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)


def attack_of(model: torch.nn.Module, norm: str, **options) -> FABAttack_PT:
    """Returns the reference attack on the CPU."""
    return FABAttack_PT(model, norm=NORMS[norm], device=torch.device("cpu"), **options)


def points(right: np.ndarray) -> float:
    """Returns how many of 100 are true."""
    return round(100 * float(np.mean(right)), 4)


def accuracy(model, images, labels, norm: str, epsilon: float, **options) -> float:
    """Returns the robust accuracy, in points, of the reference run at a fixed epsilon."""
    attack = attack_of(model, norm, eps=epsilon, **options)
    attacked = attack.perturb(images, labels)
    with torch.no_grad():
        right = model(attacked).argmax(1) == labels
    assert norms(attacked - images, norm).max() <= epsilon
    return points(right.numpy())


def minimal_norms(model, images, labels, norm: str, runs: list[int | None], steps: int) -> np.ndarray:
    """Returns what each run (of a target rank, or None) needs per example: 0 if wrong clean, infinity if nothing."""
    with torch.no_grad():
        wrong = model(images).argmax(1) != labels
    found = []
    for rank in runs:
        attack = attack_of(model, norm, n_iter=steps, targeted=rank is not None)
        attack.target_class = rank
        attacked = attack.attack_single_run(images, labels, is_targeted=rank is not None)
        length = norms(attacked - images, norm)
        length[(length == 0) & ~wrong] = torch.inf
        found.append(length.numpy())
    return np.array(found)


def rounded(values) -> list:
    """Returns nested lists of numbers of 7 digits."""
    return [rounded(v) if np.ndim(v) else float(f"{v:.7g}") for v in values]


def projection_vectors(norm: str) -> dict:
    """Returns points, normals, offsets and displacements: 12 cases of 10 pixels, some of them out of reach."""
    rng = np.random.default_rng(7)
    points = rng.uniform(size=(12, 10)).astype(np.float32)
    points[:3] = points[:3].round()
    normals = rng.normal(size=(12, 10)).astype(np.float32)
    normals[::4, :3] = 0.0
    offsets = (normals * points).sum(1) + rng.normal(size=12).astype(np.float32) * np.tile([0.3, 1, 3], 4)
    offsets = offsets.astype(np.float32)
    moved = PROJECTIONS[norm](torch.tensor(points), torch.tensor(normals), torch.tensor(offsets)).numpy()
    return {
        "points": rounded(points),
        "normals": rounded(normals),
        "offsets": rounded(offsets),
        "displacements": rounded(moved),
    }


def main() -> None:
    """Computes and writes.

    At the larger epsilon the targeted accuracy is what the reference's fixed-epsilon loop over targets says; the other
    accuracies count the least norms, which is the same thing: the first run starts at the image whatever epsilon is.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = small_cnn.torch_model()
    images, labels = small_cnn.digits()
    images, labels = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels)
    golden = {"torch": torch.__version__, "untargeted_steps": UNTARGETED_STEPS}
    for norm, epsilons in TARGETED.items():
        per_target = minimal_norms(model, images, labels, norm, list(range(2, TARGETS + 2)), 100)
        least = per_target.min(axis=0)
        untargeted = minimal_norms(model, images, labels, norm, [None], UNTARGETED_STEPS)[0]
        finite = least[np.isfinite(least)]
        options = {"n_iter": 100, "targeted": True, "n_target_classes": TARGETS}
        golden[norm] = {
            "epsilons": epsilons,
            "targeted_accuracy": [
                points(least > epsilons[0]),
                accuracy(model, images, labels, norm, epsilons[1], **options),
            ],
            "untargeted_accuracy": [points(untargeted > e) for e in epsilons],
            "norms_of_first_target": rounded(per_target[0]),
            "norms_of_last_target": rounded(per_target[-1]),
            "least_norms": rounded(least),
            "least_norm_quantiles": dict(
                zip(("10", "50", "90"), rounded(np.quantile(finite, [0.1, 0.5, 0.9])), strict=True)
            ),
            "untargeted_norms": rounded(untargeted),
            "projection": projection_vectors(norm),
        }
        shown = ("targeted_accuracy", "untargeted_accuracy", "least_norm_quantiles")
        print(
            norm,
            {key: golden[norm][key] for key in shown},
            "unbroken runs:",
            np.isinf(per_target).sum(axis=1),
            flush=True,
        )
    (small_cnn.FOLDER / "fab.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()

"""Runs the Square Attack of AutoAttack on the classifier of the golden numbers, and writes square.json.

Command:  python tests/golden/make_square.py        (PyTorch and pyautoattack 0.2.0, minutes on a CPU core)
"""

import json

import numpy as np
import small_cnn
import torch
from pyautoattack.square import SquareAttack

SEEDS = range(12)
CASES = [("Linf", 0.15), ("Linf", 0.2), ("L2", 2.0), ("L2", 3.0), ("L1", 15.0), ("L1", 25.0)]
QUERIES = (500, 2000)
SCHEDULES = [(5000, True), (500, True), (300, True), (7, True), (5000, False)]
PATTERNS = (3, 5, 6, 7, 25)


def accuracies(norm: str, epsilon: float, queries: int) -> list[float]:
    """Returns the robust accuracy for each seed."""
    images, labels = small_cnn.digits()
    x, y = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels)
    model = small_cnn.torch_model()
    result = []
    for seed in SEEDS:
        attack = SquareAttack(model, norm=norm, n_queries=queries, eps=epsilon, seed=seed, device="cpu")
        with torch.no_grad():
            right = model(attack.perturb(x, y)).argmax(1) == y
        result.append(round(right.double().mean().item(), 4))
    return result


def changes(queries: int, rescale: bool) -> list[int]:
    """Returns the numbers of the queries with another p than the one before."""
    attack = SquareAttack(None, n_queries=queries, resc_schedule=rescale)
    shares = [attack.p_selection(query) for query in range(20_000)]
    return [query for query in range(1, len(shares)) if shares[query] != shares[query - 1]]


def pattern(norm: str, size: int) -> list[list[float]]:
    """Returns eta(size), not turned."""
    attack = SquareAttack(None, norm=norm, device="cpu")
    torch.manual_seed(0)
    while True:
        eta = attack.eta(size).numpy()
        if eta[0].min() > 0:  # else it was turned
            return np.round(eta.astype(float), 6).tolist()


def main() -> None:
    """Computes and writes."""
    cases = []
    for norm, epsilon in CASES:
        for queries in QUERIES:
            values = accuracies(norm, epsilon, queries)
            case = {"norm": norm.lower(), "epsilon": epsilon, "queries": queries, "accuracies": values}
            cases.append(
                case | {"mean": round(float(np.mean(values)), 4), "std": round(float(np.std(values, ddof=1)), 4)}
            )
            print(cases[-1], flush=True)
    schedules = [{"queries": q, "rescale": r, "changes": changes(q, r)} for q, r in SCHEDULES]
    patterns = [{"norm": n.lower(), "size": s, "eta": pattern(n, s)} for n in ("L2", "L1") for s in PATTERNS]
    content = {"cases": cases, "schedules": schedules, "patterns": patterns}
    (small_cnn.FOLDER / "square.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()

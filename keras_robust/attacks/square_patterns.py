"""The schedule of square sizes and the patterns of Square Attack, computed before the attack runs."""

import math

import numpy as np

SCHEDULED_FOR = 10_000
"""The number of queries that `CHANGES` was made for."""

CHANGES = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After which of these queries the share of changed pixels halves (Andriushchenko et al., 2020, section 4.1)."""

DECAY = {"l2": 2, "l1": 4}
"""Power with which a pattern falls off from its centres: of the paper for L2, of the code of AutoAttack for L1."""


def first_queries(queries: int, rescale: bool) -> list[int]:
    """Returns the numbers (from 0) of the queries from which on the share is halved once, twice, ... nine times.

    Args:
        queries: that the attack has in all.
        rescale: stretch the schedule to them. The Square class of AutoAttack does by default; its suite does not.
    """

    def scheduled(query: int) -> int:
        return int(query / queries * SCHEDULED_FOR) if rescale else query

    firsts = []
    for change in CHANGES:
        # Searched from just below, since rounding can move the first query by one.
        query = max(0, change * queries // SCHEDULED_FOR - 1) if rescale else change
        while scheduled(query) <= change:
            query += 1
        firsts.append(query)
    return firsts


def square_sizes(height: int, width: int, p_init: float, norm: str) -> list[int]:
    """Returns the sides of the squares in pixels: before the first change, and after each.

    A square covers the share p of the image. For L2 and L1 the side is odd, and 3 at least. No side is longer than the
    image.
    """
    sizes = []
    for halvings in range(len(CHANGES) + 1):
        size = round(math.sqrt(p_init / 2**halvings * height * width))
        size = max(size, 1) if norm == "linf" else max(size, 3) // 2 * 2 + 1
        sizes.append(min(size, height, width))
    return sizes


def bump(height: int, width: int, norm: str) -> np.ndarray:
    """Returns nested rectangles around the centre at unit norm: sum_k (k + 1)^-decay over those that hold a pixel."""
    rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
    ring = np.maximum(np.abs(rows)[:, None], np.abs(columns)[None, :])
    terms = 1.0 / np.arange(1, max(height, width) // 2 + 2) ** DECAY[norm]
    return _unit(np.cumsum(terms[::-1])[::-1][ring], norm)


def eta(size: int, norm: str) -> np.ndarray:
    """Returns a (size, size) pattern of unit norm: a bump in the upper half, its opposite in the lower one."""
    upper = size // 2
    halves = [bump(upper, size, norm)] if upper else []
    return _unit(np.concatenate([*halves, -bump(size - upper, size, norm)]), norm)


def eta_table(sizes: list[int], norm: str) -> np.ndarray:
    """Returns float32 (sizes, 2, largest, largest): each pattern and its transpose, filled up with 0."""
    largest = max(sizes)
    table = np.zeros((len(sizes), 2, largest, largest), np.float32)
    for index, size in enumerate(sizes):
        pattern = eta(size, norm)
        table[index, 0, :size, :size], table[index, 1, :size, :size] = pattern, pattern.T
    return table


def _unit(pattern: np.ndarray, norm: str) -> np.ndarray:
    length = np.abs(pattern).sum() if norm == "l1" else np.sqrt(np.square(pattern).sum())
    return pattern / length

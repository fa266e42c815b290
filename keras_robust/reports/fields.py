"""What the checks of records, analyses and samples share."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Record = dict[str, Any]
Samples = dict[str, np.ndarray]

# Accuracies are shown in percent with one decimal: a smaller difference cannot be seen.
SHOWN_PRECISION = 5e-4


def require(mapping: Mapping[str, Any], fields: tuple[str, ...], where: str) -> None:
    """Checks that every field is there.

    Raises:
        ValueError: a field is missing.
    """
    missing = [field for field in fields if field not in mapping]
    if missing:
        raise ValueError(f"Missing in {where}: {', '.join(map(repr, missing))}. Received: keys {sorted(mapping)}")


def numbers(values: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Nested numbers as float64 of that shape; None becomes not a number.

    Raises:
        ValueError: they are no numbers, or of another shape.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected numbers of shape {shape} in {where}. Received: {values!r}") from error
    if array.shape != shape:
        raise ValueError(f"Expected numbers of shape {shape} in {where}. Received: shape {array.shape}")
    return array


def fractions(values: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Nested fractions as float64 of that shape.

    Raises:
        ValueError: one is outside [0, 1] or no number, or they are of another shape.
    """
    array = numbers(values, shape, where)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"Expected fractions from 0 to 1 in {where}. Received: {values!r}")
    return array

"""What a report needs to find in the analyses of a record."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_robust.reports.fields import SHOWN_PRECISION, fractions, numbers, require

Analysis = Mapping[str, Any]

ITERATION_CURVE, EPSILON_CURVE = "iteration_curve", "epsilon_curve"
TRANSFER_MATRIX, LOSS_SURFACE, LARGE_EPSILON = "transfer_matrix", "loss_surface", "large_epsilon_images"
NORMALIZATION = "normalization_statistics"
FIELDS = {
    ITERATION_CURVE: ("attack", "iterations", "accuracy", "flat", "verdict"),
    EPSILON_CURVE: ("attack", "norm", "epsilons", "accuracy", "verdict"),
    TRANSFER_MATRIX: ("sources", "targets", "attacks", "accuracy", "white_box", "verdicts"),
    LOSS_SURFACE: ("axes", "norm", "radius", "first", "second", "losses", "labels", "verdict"),
    LARGE_EPSILON: ("attack", "epsilon", "arrays"),
    NORMALIZATION: ("layer", "attack", "channels", "series", "verdict"),
}
TRANSFER_VERDICT_FIELDS = ("target", "attack", "source", "white_box", "transferred", "shattered", "reason")


def check_analysis(analysis: Analysis, where: str) -> None:
    """Checks that an analysis has every field of its kind and that these belong together.

    Args:
        analysis: an entry of the record's `analyses`.
        where: what it is called in messages.

    Raises:
        ValueError: the kind is unknown, a field is missing, or shapes, ranges or verdicts contradict each other.
    """
    require(analysis, ("kind", "seconds"), where)
    kind = analysis["kind"]
    if kind not in FIELDS:
        raise ValueError(f"Expected a kind of {', '.join(FIELDS)} in {where}. Received: kind={kind!r}")
    require(analysis, FIELDS[kind], where)
    if kind == ITERATION_CURVE:
        _check_curve(analysis, "iterations", where)
        if not min(analysis["iterations"]) > 0:
            raise ValueError(f"Expected positive iterations in {where}. Received: {analysis['iterations']!r}")
    elif kind == EPSILON_CURVE:
        _check_curve(analysis, "epsilons", where)
    elif kind == TRANSFER_MATRIX:
        _check_transfer(analysis, where)
    elif kind == LOSS_SURFACE:
        _check_surface(analysis, where)
    elif kind == NORMALIZATION:
        _check_normalization(analysis, where)


def _check_curve(analysis: Analysis, field: str, where: str) -> None:
    """A curve follows from the values at which its examples were broken, None for never, where these are kept."""
    length = len(analysis[field])
    values = numbers(analysis[field], (length,), f"{where}[{field!r}]")
    if not length or not (np.diff(values) > 0).all():
        raise ValueError(f"Expected increasing {field} in {where}. Received: {analysis[field]!r}")
    accuracy = fractions(analysis["accuracy"], (length,), f"{where}['accuracy']")
    if analysis.get("broken_at"):
        broken_at = [np.inf if value is None else value for value in analysis["broken_at"]]
        withstood = numbers(broken_at, (len(broken_at),), f"{where}['broken_at']") > values[:, None]
        _check_means(accuracy, withstood, f"{where}['accuracy']")


def _check_transfer(analysis: Analysis, where: str) -> None:
    sources, targets = analysis["sources"], analysis["targets"]
    shape = len(analysis["attacks"]), len(sources), len(targets)
    if not all(shape):
        raise ValueError(f"Expected sources, targets and attacks in {where}. Received: {shape} of them")
    accuracy = fractions(analysis["accuracy"], shape, f"{where}['accuracy']")
    if analysis.get("robust"):
        examples = len(analysis["robust"][0][0][0])
        _check_means(
            accuracy, numbers(analysis["robust"], (*shape, examples), f"{where}['robust']"), f"{where}['accuracy']"
        )
    white_box = numbers(analysis["white_box"], shape[1:], f"{where}['white_box']") != 0
    for position, verdict in enumerate(analysis["verdicts"]):
        here = f"{where}['verdicts'][{position}]"
        require(verdict, TRANSFER_VERDICT_FIELDS, here)
        for field, names in (("attack", analysis["attacks"]), ("source", sources), ("target", targets)):
            if verdict[field] not in names:
                raise ValueError(f"Expected one of {names} in {here}. Received: {field}={verdict[field]!r}")
        matrix = accuracy[analysis["attacks"].index(verdict["attack"])]
        column = targets.index(verdict["target"])
        own = matrix[white_box[:, column], column]
        _check_among(verdict["white_box"], own, f"white_box accuracy in {here}")
        transferred = matrix[sources.index(verdict["source"]), column]
        _check_among(verdict["transferred"], transferred[None], f"transferred accuracy in {here}")


def _check_means(accuracy: np.ndarray, results: np.ndarray, field: str) -> None:
    """Accuracies are the means of the per-example results along the last axis."""
    means = results.mean(axis=-1)
    if not (np.abs(accuracy - means) <= SHOWN_PRECISION).all():
        raise ValueError(
            f"Expected {field} to be the means of the per-example results, {means.tolist()}. "
            f"Received: {accuracy.tolist()}"
        )


def _check_among(value: float, cells: np.ndarray, field: str) -> None:
    if not (np.abs(cells - value) <= SHOWN_PRECISION).any():
        raise ValueError(f"Expected the {field} to be that of the matrix, {cells.tolist()}. Received: {value!r}")


def _check_surface(analysis: Analysis, where: str) -> None:
    first, second = len(analysis["first"]), len(analysis["second"])
    for field, length in (("first", first), ("second", second)):
        offsets = numbers(analysis[field], (length,), f"{where}[{field!r}]")
        if length < 2 or not (np.diff(offsets) > 0).all():
            raise ValueError(
                f"Expected at least two increasing offsets in {where}. Received: {field}={offsets.tolist()}"
            )
    if len(analysis["axes"]) != 2:
        raise ValueError(f"Expected two axes in {where}. Received: {analysis['axes']!r}")
    numbers(analysis["losses"], (len(analysis["labels"]), first, second), f"{where}['losses']")


def _check_normalization(analysis: Analysis, where: str) -> None:
    shape = (len(analysis["channels"]),)
    if not analysis["series"]:
        raise ValueError(f"Expected series in {where}. Received: none")
    for position, series in enumerate(analysis["series"]):
        here = f"{where}['series'][{position}]"
        require(series, ("name", "mean", "variance"), here)
        numbers(series["mean"], shape, f"{here}['mean']")
        numbers(series["variance"], shape, f"{here}['variance']")

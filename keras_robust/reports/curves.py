"""Curves of accuracy along the iterations or the size of an attack: their names and their tables."""

import dataclasses
from collections.abc import Sequence

from keras_robust.reports import formatting
from keras_robust.reports.analysis_record import EPSILON_CURVE, ITERATION_CURVE, Analysis
from keras_robust.reports.tables import Table, make_table


@dataclasses.dataclass(frozen=True)
class Axis:
    """What a kind of curve runs along.

    Attributes:
        field: of the analysis, with the values.
        heading: of the section.
        name: of the axis.
        logarithmic: whether the plot is.
    """

    field: str
    heading: str
    name: str
    logarithmic: bool


AXES = {
    ITERATION_CURVE: Axis("iterations", "Attack iterations", "iterations", True),
    EPSILON_CURVE: Axis("epsilons", "Size of the perturbation", "epsilon", False),
}


@dataclasses.dataclass(frozen=True)
class AccuracyCurve:
    """Accuracies, as fractions, at increasing values of x."""

    label: str
    x: list[float]
    accuracy: list[float]


def axis_label(analysis: Analysis) -> str:
    """The name of the axis: "iterations", or "epsilon (Linf)"."""
    name = AXES[analysis["kind"]].name
    return f"{name} ({analysis['norm'].capitalize()})" if analysis["kind"] == EPSILON_CURVE else name


def curve_of(analysis: Analysis, label: str) -> AccuracyCurve:
    """The curve of an analysis."""
    return AccuracyCurve(label, analysis[AXES[analysis["kind"]].field], analysis["accuracy"])


def curve_table(curves: Sequence[AccuracyCurve], x_label: str) -> Table:
    """One row per value of x, one column per curve."""
    heading = x_label[:1].upper() + x_label[1:]
    at = [dict(zip(curve.x, curve.accuracy, strict=True)) for curve in curves]
    rows = [
        [value_text(x), *(formatting.percent(values[x]) if x in values else formatting.NOTHING for values in at)]
        for x in sorted({x for curve in curves for x in curve.x})
    ]
    return make_table((heading, *(curve.label for curve in curves)), "r" * (1 + len(curves)), rows)


def describe(curves: Sequence[AccuracyCurve], x_label: str) -> str:
    """The text alternative of a plot of curves."""
    ranges = [
        f"{curve.label} from {formatting.percent(curve.accuracy[0])} at {value_text(curve.x[0])} "
        f"to {formatting.percent(curve.accuracy[-1])} at {value_text(curve.x[-1])}"
        for curve in curves
    ]
    return f"Line plot over {x_label}: {'; '.join(ranges)}."


def value_text(x: float) -> str:
    """A value of x: 2000 becomes "2,000", 0.3 stays "0.3"."""
    return f"{x:,.6g}"

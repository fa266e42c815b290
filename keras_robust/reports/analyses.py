"""The analyses of a record as sections of text and tables, the same for Markdown and HTML."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from keras_robust.reports import formatting
from keras_robust.reports.record import (
    EPSILON_CURVE,
    ITERATION_CURVE,
    LARGE_EPSILON,
    LOSS_SURFACE,
    NORMALIZATION,
    TRANSFER_MATRIX,
    Analysis,
    Record,
)
from keras_robust.reports.tables import SUSPICIOUS, Table, make_table

TRANSFER_COLUMNS = ("Target", "Verdict", "Attack", "White box", "Transferred", "Crafted on", "Reason")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A sentence that says what an analysis found, and whether the finding is suspicious."""

    text: str
    suspicious: bool


@dataclasses.dataclass(frozen=True)
class Section:
    """The text and the tables of one analysis."""

    heading: str
    introduction: str
    verdicts: list[Verdict]
    tables: list[Table]


def sections(record: Record) -> list[Section]:
    """Returns one section per analysis, in the order of the record."""
    return [_SECTIONS[analysis["kind"]](analysis) for analysis in record.get("analyses") or []]


@dataclasses.dataclass(frozen=True)
class Axis:
    """The x axis of a kind of curve.

    Attributes:
        field: key of the analysis under which the values of x are.
        heading: heading of the section.
        name: name of the axis.
        logarithmic: whether the axis of the plot is logarithmic.
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
    """Accuracies, fractions in [0, 1], at increasing values of x."""

    label: str
    x: list[float]
    accuracy: list[float]


def _curve_section(analysis: Analysis) -> Section:
    axis = AXES[analysis["kind"]]
    table = curve_table([curve_of(analysis, "Accuracy")], axis_label(analysis))
    return Section(
        axis.heading,
        f"Accuracy under {analysis['attack']}, by {axis_label(analysis)}.{_time(analysis)}",
        [Verdict(analysis["verdict"], not analysis.get("flat", True))],
        [table],
    )


def axis_label(analysis: Analysis) -> str:
    """Returns the name of the x axis, such as "iterations" or "epsilon (Linf)"."""
    name = AXES[analysis["kind"]].name
    return f"{name} ({analysis['norm'].capitalize()})" if analysis["kind"] == EPSILON_CURVE else name


def curve_of(analysis: Analysis, label: str) -> AccuracyCurve:
    """Returns the curve of an analysis, with `label` as its name."""
    return AccuracyCurve(label, analysis[AXES[analysis["kind"]].field], analysis["accuracy"])


def curve_table(curves: Sequence[AccuracyCurve], x_label: str) -> Table:
    """Returns a table with one row per value of x and one column per curve."""
    heading = x_label[:1].upper() + x_label[1:]
    at = [dict(zip(curve.x, curve.accuracy, strict=True)) for curve in curves]
    rows = [
        [value_text(x), *(formatting.percent(values[x]) if x in values else formatting.NOTHING for values in at)]
        for x in sorted({x for curve in curves for x in curve.x})
    ]
    return make_table((heading, *(curve.label for curve in curves)), "r" * (1 + len(curves)), rows)


def describe_curves(curves: Sequence[AccuracyCurve], x_label: str) -> str:
    """Returns the text alternative of a plot of curves."""
    ranges = [
        f"{curve.label} from {formatting.percent(curve.accuracy[0])} at {value_text(curve.x[0])} "
        f"to {formatting.percent(curve.accuracy[-1])} at {value_text(curve.x[-1])}"
        for curve in curves
    ]
    return f"Line plot over {x_label}: {'; '.join(ranges)}."


def value_text(x: float) -> str:
    """Returns a value of x as text: "2,000" for 2000, "0.3" for 0.3."""
    return f"{x:,.6g}"


def _transfer_section(analysis: Analysis) -> Section:
    verdicts = analysis["verdicts"]
    shattered = sum(bool(verdict["shattered"]) for verdict in verdicts)
    comparisons = formatting.count(len(verdicts), "comparison")
    found = f"Gradient shattering in {shattered} of {comparisons}."
    if not shattered:
        found = f"No sign of gradient shattering in {comparisons}."
    tables = [_transfer_verdicts(analysis)] if verdicts else []
    return Section(
        "Transfer between models",
        "Accuracy of each target (column) on examples crafted on each source (row). White box: the source is the "
        f"target itself.{_time(analysis)}",
        [Verdict(found, bool(shattered))] if verdicts else [],
        [*tables, _transfer_table(analysis)],
    )


def _transfer_verdicts(analysis: Analysis) -> Table:
    rows = [
        (
            verdict["target"],
            formatting.SUSPICIOUS if verdict["shattered"] else formatting.NOT_SUSPICIOUS,
            verdict["attack"],
            formatting.percent(verdict["white_box"]),
            formatting.percent(verdict["transferred"]),
            verdict["source"],
            verdict["reason"],
        )
        for verdict in analysis["verdicts"]
    ]
    marks = [SUSPICIOUS if verdict["shattered"] else "" for verdict in analysis["verdicts"]]
    return make_table(TRANSFER_COLUMNS, "nlnrrnt", rows, marks)


def _transfer_table(analysis: Analysis) -> Table:
    rows = [
        [source, attack, *map(_transfer_cell, cells, framed)]
        for attack, matrix in zip(analysis["attacks"], analysis["accuracy"], strict=True)
        for source, cells, framed in zip(analysis["sources"], matrix, analysis["white_box"], strict=True)
    ]
    targets = analysis["targets"]
    columns = ("Crafted on", "Attack", *(f"Shown to {target}" for target in targets))
    return make_table(columns, "nn" + "r" * len(targets), rows)


def _transfer_cell(accuracy: float, white_box: bool) -> str:
    return formatting.percent(accuracy) + (" (white box)" if white_box else "")


def _surface_section(analysis: Analysis) -> Section:
    first, second = direction_names(analysis)
    radius = formatting.scalar(analysis["radius"])
    losses = np.asarray(analysis["losses"], np.float64)
    centre = np.abs(analysis["first"]).argmin(), np.abs(analysis["second"]).argmin()
    rows = [
        [str(label), *(formatting.scalar(float(loss)) for loss in (surface[centre], surface.min(), surface.max()))]
        for label, surface in zip(analysis["labels"], losses, strict=True)
    ]
    return Section(
        "Loss surface",
        f"Cross-entropy in nats around {formatting.count(len(rows), 'example')}. Each example is moved by up to "
        f"{radius} ({analysis['norm'].capitalize()}) along the {first} and the {second}.{_time(analysis)}",
        [Verdict(analysis["verdict"], False)],
        [make_table(("Label", "Loss at the centre", "Lowest", "Highest"), "lrrr", rows)],
    )


def direction_names(analysis: Analysis) -> tuple[str, str]:
    """Returns the names of the two axes of a loss surface."""
    first, second = (f"{axis} direction" for axis in analysis["axes"])
    return (first, second) if first != second else (f"first {first}", f"second {second}")


def _large_epsilon_section(analysis: Analysis) -> Section:
    epsilon = formatting.scalar(analysis["epsilon"])
    return Section(
        "Images under a large perturbation",
        f"Images before and after {analysis['attack']}, with an epsilon of {epsilon}. If a classifier is robust, "
        f"attacked images look like the class that it predicts for them.{_time(analysis)}",
        [],
        [],
    )


def _normalization_section(analysis: Analysis) -> Section:
    series = analysis["series"]
    rows = [
        [
            str(channel),
            *(formatting.scalar(float(one[field][index])) for field in ("mean", "variance") for one in series),
        ]
        for index, channel in enumerate(analysis["channels"])
    ]
    names = [f"{field}, {one['name']}" for field in ("Mean", "Variance") for one in series]
    return Section(
        "Statistics of batch normalisation",
        f"Means and variances of {formatting.count(len(rows), 'channel')} of the layer {analysis['layer']!r}. "
        f"The attack on the attacked images is {analysis['attack']}.{_time(analysis)}",
        [Verdict(analysis["verdict"], False)],
        [make_table(("Channel", *names), "l" + "r" * len(names), rows)],
    )


def _time(analysis: Analysis) -> str:
    return "" if analysis["seconds"] is None else f" This analysis took {formatting.seconds(analysis['seconds'])}."


_SECTIONS: dict[str, Callable[[Analysis], Section]] = {
    ITERATION_CURVE: _curve_section,
    EPSILON_CURVE: _curve_section,
    TRANSFER_MATRIX: _transfer_section,
    LOSS_SURFACE: _surface_section,
    LARGE_EPSILON: _large_epsilon_section,
    NORMALIZATION: _normalization_section,
}

"""Training curves as SVG, drawn without pyplot: no global state, no display."""

import dataclasses
import io
import math
from typing import Any

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.figure import Figure

from keras_robust.reports import formatting, images

History = dict[str, list[float | None]]

# Blue and vermilion of Okabe and Ito's palette, safe for colour-blind readers; dark enough on white.
CLEAN_COLOUR, ATTACKED_COLOUR = "#0072b2", "#c44e00"
OTHERS = (("#00735c", "s"), ("#8a5a9e", "D"), ("#6b6b6b", "v"), ("#8c6d00", "P"))
_ACCURACY, _LOSS = "accuracy", "loss"
# Heading of each figure and how the names of its series end.
FIGURES = (("Accuracy", _ACCURACY), ("Loss", _LOSS))


@dataclasses.dataclass(frozen=True)
class Curve:
    """One series of the history and how it looks."""

    label: str
    values: list[float]
    colour: str
    marker: str
    is_validation: bool


@dataclasses.dataclass(frozen=True)
class CurveFigure:
    """A figure of the page: heading, data URI of the SVG and a description with the final values."""

    heading: str
    uri: str
    description: str


def curve_figures(history: History) -> list[CurveFigure]:
    """One figure for accuracy and one for loss, of whatever the history holds of them."""
    figures = []
    for heading, metric in FIGURES:
        curves = find_curves(history, metric)
        if curves:
            svg = draw(curves, epochs(history), heading)
            figures.append(CurveFigure(heading, images.data_uri(svg, "image/svg+xml"), describe(curves, heading)))
    return figures


def find_curves(history: History, metric: str) -> list[Curve]:
    """The series whose name ends in `metric`: `val_` marks validation, `robust_` attacked images."""
    curves: list[Curve] = []
    others: dict[str, tuple[str, str]] = {}
    for key, values in history.items():
        if not key.endswith(metric) or not values:
            continue
        base = key.removeprefix("val_")
        phase = "validation" if base != key else "training"
        kind = base.removeprefix("robust_")
        attacked = kind != base
        # A plain loss is the whole training objective, which may contain attacked images.
        view = "attacked" if attacked else "objective" if metric == _LOSS else "clean"
        colour, marker = (ATTACKED_COLOUR, "^") if attacked else (CLEAN_COLOUR, "o")
        if kind != metric:
            view = f"{view}, {kind}" if attacked or metric == _ACCURACY else kind
            colour, marker = others.setdefault(base, OTHERS[len(others) % len(OTHERS)])
        numbers = [math.nan if value is None else float(value) for value in values]
        curves.append(Curve(f"{phase}, {view}", numbers, colour, marker, phase == "validation"))
    return sorted(curves, key=lambda curve: curve.is_validation)


def epochs(history: History) -> list[int]:
    """The epoch of every entry, counted from 1."""
    length = max(map(len, history.values()), default=0)
    recorded = history.get("epoch") or []
    if len(recorded) == length:
        return [int(epoch or 0) + 1 for epoch in recorded]
    return list(range(1, length + 1))


def final_values(curves: list[Curve], heading: str) -> list[tuple[str, str]]:
    """The last value of every curve as (label, text)."""
    write = formatting.percent if heading == "Accuracy" else formatting.scalar
    return [(curve.label, write(curve.values[-1])) for curve in curves]


def describe(curves: list[Curve], heading: str) -> str:
    """The text alternative of a figure."""
    values = "; ".join(f"{label} {text}" for label, text in final_values(curves, heading))
    return f"{heading} by epoch. Values of the last epoch: {values}."


def draw(curves: list[Curve], x: list[int], heading: str) -> bytes:
    """An SVG with validation solid, training dashed, attacked with triangles and clean with circles."""
    # The salt makes the identifiers inside the SVG, and so the page, the same in every run.
    with mpl.rc_context({"svg.hashsalt": "keras_robust", "font.size": 10}):
        figure = Figure(figsize=(4.4, 3.6), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        for curve in curves:
            _plot(axes, curve, x, scale=100 if heading == "Accuracy" else 1)
        _style(axes, heading)
        columns = 2 if len(curves) > 1 else 1
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _plot(axes: Any, curve: Curve, x: list[int], scale: float) -> None:
    # Matplotlib reads a dollar sign as the start of a formula.
    axes.plot(
        x[: len(curve.values)],
        [scale * value for value in curve.values],
        label=curve.label.replace("$", r"\$"),
        color=curve.colour,
        linestyle="-" if curve.is_validation else "--",
        linewidth=1.6,
        marker=curve.marker,
        markersize=4.5,
        markerfacecolor=curve.colour if curve.is_validation else "white",
        markevery=max(1, len(curve.values) // 10),
    )


def _style(axes: Any, heading: str) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylabel(heading.lower())
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if heading == "Accuracy":
        axes.set_ylim(0, 102)
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:.0f} %"))
    elif axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)

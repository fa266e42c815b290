"""Plots of training curves, as SVG."""

import dataclasses
import math
from typing import Any

from matplotlib import ticker

from keras_robust.reports import canvas, formatting
from keras_robust.reports.canvas import Picture

History = dict[str, list[float | None]]

_ACCURACY, _LOSS = "accuracy", "loss"
# The heading of each figure, and the end of the names of its series.
FIGURES = (("Accuracy", _ACCURACY), ("Loss", _LOSS))


@dataclasses.dataclass(frozen=True)
class Curve:
    """One series of the history, with its label, colour and marker."""

    label: str
    values: list[float]
    colour: str
    marker: str
    is_validation: bool


def curve_figures(history: History) -> list[Picture]:
    """Returns a figure for accuracy and a figure for loss. A figure without series in the history is left out."""
    figures = []
    for heading, metric in FIGURES:
        curves = find_curves(history, metric)
        if curves:
            figures.append(Picture(draw(curves, epochs(history), heading), describe(curves, heading)))
    return figures


def find_curves(history: History, metric: str) -> list[Curve]:
    """Returns the series whose names end in `metric`, training first.

    In these names, the prefix `val_` means validation, and `robust_` means attacked images.
    """
    curves: list[Curve] = []
    others: dict[str, tuple[str, str]] = {}
    for key, values in history.items():
        if not key.endswith(metric) or not values:
            continue
        base = key.removeprefix("val_")
        phase = "validation" if base != key else "training"
        kind = base.removeprefix("robust_")
        attacked = kind != base
        # "loss" is the whole training objective, in which attacked images may take part.
        view = "attacked" if attacked else "objective" if metric == _LOSS else "clean"
        colour, marker = (canvas.ATTACKED_COLOUR, "^") if attacked else (canvas.CLEAN_COLOUR, "o")
        if kind != metric:
            view = f"{view}, {kind}" if attacked or metric == _ACCURACY else kind
            colour, marker = others.setdefault(base, canvas.OTHERS[len(others) % len(canvas.OTHERS)])
        numbers = [math.nan if value is None else float(value) for value in values]
        curves.append(Curve(f"{phase}, {view}", numbers, colour, marker, phase == "validation"))
    return sorted(curves, key=lambda curve: curve.is_validation)


def epochs(history: History) -> list[int]:
    """Returns the epoch of every entry, counted from 1."""
    length = max(map(len, history.values()), default=0)
    recorded = history.get("epoch") or []
    if len(recorded) == length:
        return [int(epoch or 0) + 1 for epoch in recorded]
    return list(range(1, length + 1))


def final_values(curves: list[Curve], heading: str) -> list[tuple[str, str]]:
    """Returns the last value of every curve as (label, text)."""
    write = formatting.percent if heading == "Accuracy" else formatting.scalar
    return [(curve.label, write(curve.values[-1])) for curve in curves]


def describe(curves: list[Curve], heading: str) -> str:
    """Returns the text alternative of a figure."""
    values = "; ".join(f"{label} {text}" for label, text in final_values(curves, heading))
    return f"{heading} by epoch. Values of the last epoch: {values}."


def draw(curves: list[Curve], x: list[int], heading: str) -> str:
    """Returns the data URI of an SVG.

    Validation is solid and training dashed. Attacked curves have triangles, clean curves have circles.
    """
    with canvas.style():
        figure = canvas.new_figure(4.4, 3.6)
        axes = figure.add_subplot()
        for curve in curves:
            _plot(axes, curve, x, scale=100 if heading == "Accuracy" else 1)
        _style(axes, heading)
        columns = 2 if len(curves) > 1 else 1
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
        return canvas.svg_uri(figure)


def _plot(axes: Any, curve: Curve, x: list[int], scale: float) -> None:
    axes.plot(
        x[: len(curve.values)],
        [scale * value for value in curve.values],
        label=canvas.plain(curve.label),
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
    canvas.clear_axes(axes)
    if heading == "Accuracy":
        canvas.percent_axis(axes)
    elif axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)

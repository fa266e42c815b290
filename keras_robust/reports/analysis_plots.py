"""Plots of the analyses: accuracy curves, heat maps of transfer, loss surfaces, statistics of batch normalisation."""

import itertools
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.patches import Rectangle

from keras_robust.reports import analyses, canvas, formatting
from keras_robust.reports.analyses import AccuracyCurve, direction_names
from keras_robust.reports.canvas import Picture
from keras_robust.reports.record import (
    EPSILON_CURVE,
    ITERATION_CURVE,
    LARGE_EPSILON,
    LOSS_SURFACE,
    NORMALIZATION,
    TRANSFER_MATRIX,
    Analysis,
)

MAX_SURFACES = 4
LEVELS = 14
LABEL_WIDTH = 24
# Above this accuracy a cell is so dark that white text is easier to read than black text.
_DARK = 0.7


def pictures(analysis: Analysis) -> list[Picture]:
    """Returns the plots of an analysis. There are none for images under a large epsilon."""
    return _PICTURES[analysis["kind"]](analysis)


def curve_picture(series: Sequence[AccuracyCurve], x_label: str, *, logarithmic: bool) -> Picture:
    """Returns a plot with one line per curve, and with a legend if there are several."""
    several = len(series) > 1
    with canvas.style():
        figure = canvas.new_figure(4.6, 3.4 + 0.3 * len(series) * several)
        axes = figure.add_subplot()
        for position, curve in enumerate(series):
            colour, marker = canvas.SERIES[position % len(canvas.SERIES)]
            percents = [100 * accuracy for accuracy in curve.accuracy]
            label = canvas.plain(_wrap(curve.label, 2 * LABEL_WIDTH))
            axes.plot(curve.x, percents, label=label, color=colour, marker=marker, linewidth=1.6, markersize=4.5)
        if logarithmic:
            _logarithmic(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel("accuracy")
        canvas.clear_axes(axes)
        canvas.percent_axis(axes)
        if several:
            figure.legend(loc="outside lower center", frameon=False, fontsize=9)
        return Picture(canvas.svg_uri(figure), analyses.describe_curves(series, x_label))


def _logarithmic(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.tick_params(axis="x", labelsize=9)


def _curve(analysis: Analysis) -> list[Picture]:
    curve = analyses.curve_of(analysis, analysis["attack"])
    logarithmic = analyses.AXES[analysis["kind"]].logarithmic
    return [curve_picture([curve], analyses.axis_label(analysis), logarithmic=logarithmic)]


def _heat_maps(analysis: Analysis) -> list[Picture]:
    return [
        _heat_map(analysis, attack, np.asarray(matrix, np.float64))
        for attack, matrix in zip(analysis["attacks"], analysis["accuracy"], strict=True)
    ]


def _heat_map(analysis: Analysis, attack: str, matrix: np.ndarray) -> Picture:
    rows, columns = matrix.shape
    with canvas.style():
        figure = canvas.new_figure(2.4 + 0.9 * columns, 1.5 + rows * _row_height(analysis["sources"]))
        axes = figure.add_subplot()
        axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        _name_cells(axes, analysis["sources"], analysis["targets"])
        for (row, column), accuracy in np.ndenumerate(matrix):
            colour = "white" if accuracy > _DARK else "black"
            axes.text(column, row, formatting.percent(accuracy), ha="center", va="center", color=colour)
            if analysis["white_box"][row][column]:
                _frame(axes, row, column)
        return Picture(canvas.svg_uri(figure), _describe_heat_map(analysis, attack, matrix), attack)


def _row_height(names: Sequence[str]) -> float:
    """Returns the height in inches that the longest name needs."""
    return max(0.6, 0.18 * max(len(_wrap(name, LABEL_WIDTH).splitlines()) for name in names))


def _name_cells(axes: Any, sources: Sequence[str], targets: Sequence[str]) -> None:
    axes.set_yticks(range(len(sources)), [canvas.plain(_wrap(name, LABEL_WIDTH)) for name in sources])
    axes.set_xticks(
        range(len(targets)),
        [canvas.plain(_wrap(name, LABEL_WIDTH)) for name in targets],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
    )
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("crafted on")
    axes.set_xlabel("shown to (framed: white box)")


def _frame(axes: Any, row: int, column: int) -> None:
    corner = (column - 0.46, row - 0.46)
    axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=canvas.ATTACKED_COLOUR, linewidth=2.5))


def _describe_heat_map(analysis: Analysis, attack: str, matrix: np.ndarray) -> str:
    lowest = [
        f"{target} {formatting.percent(column.min())} on examples of {analysis['sources'][column.argmin()]}"
        for target, column in zip(analysis["targets"], matrix.T, strict=True)
    ]
    return f"Heat map of accuracy under {attack} by source and target. Lowest per target: {'; '.join(lowest)}."


def _surfaces(analysis: Analysis) -> list[Picture]:
    found = []
    names = direction_names(analysis)
    for label, losses in zip(analysis["labels"][:MAX_SURFACES], analysis["losses"], strict=False):
        grid = np.ma.masked_invalid(np.asarray(losses, np.float64).T)
        offsets = np.meshgrid(analysis["first"], analysis["second"])
        where = f"of the loss around an example of label {label}, along the {names[0]} and the {names[1]}"
        surface, contours = _draw_surface(offsets, grid, names), _draw_contours(offsets, grid, names)
        found.append(Picture(surface, f"Surface {where}.", f"Label {label}"))
        found.append(Picture(contours, f"Contours {where}.", f"Label {label}, from above"))
    return found


def _draw_surface(offsets: Sequence[np.ndarray], grid: np.ma.MaskedArray, names: tuple[str, str]) -> str:
    low, high = _limits(grid)
    with canvas.style():
        figure = canvas.new_figure(4.4, 3.8)
        axes: Any = figure.add_subplot(projection="3d")
        axes.plot_surface(*offsets, grid.filled(np.nan), cmap="viridis", vmin=low, vmax=high, rcount=60, ccount=60)
        axes.set_zlim(low, high)
        axes.set_xlabel(names[0], fontsize=9)
        axes.set_ylabel(names[1], fontsize=9)
        axes.set_zlabel("cross-entropy", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_box_aspect(None, zoom=0.85)
        return canvas.png_uri(figure)


def _draw_contours(offsets: Sequence[np.ndarray], grid: np.ma.MaskedArray, names: tuple[str, str]) -> str:
    low, high = _limits(grid)
    with canvas.style():
        figure = canvas.new_figure(4.4, 3.8)
        axes = figure.add_subplot()
        filled = axes.contourf(*offsets, grid, levels=np.linspace(low, high, LEVELS), cmap="viridis")
        axes.plot(0, 0, marker="+", color="white", markersize=10, markeredgewidth=2)
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        bar = figure.colorbar(filled, ax=axes, ticks=ticker.MaxNLocator(6))
        bar.set_label("cross-entropy in nats")
        return canvas.png_uri(figure)


def _limits(grid: np.ma.MaskedArray) -> tuple[float, float]:
    """Returns the lowest and the highest finite loss. The range is never empty."""
    low, high = (float(grid.min()), float(grid.max())) if grid.count() else (0.0, 1.0)
    return (low, high) if high > low else (low, low + 1.0)


def _wrap(text: str, width: int) -> str:
    """Returns a long name on several lines. Lines end after a slash, space, dash or underscore, or else anywhere."""
    lines = [""]
    for piece in re.split(r"(?<=[/_ -])", text):
        if len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(part for line in lines for part in textwrap.wrap(line, width))


def _statistics(analysis: Analysis) -> list[Picture]:
    return [_statistic(analysis, field) for field in ("mean", "variance")]


def _statistic(analysis: Analysis, field: str) -> Picture:
    """Returns a plot with one line per series over the channels (Xie & Yuille, 2020, figures 5 and 6)."""
    with canvas.style():
        figure = canvas.new_figure(4.6, 3.4 + 0.3 * len(analysis["series"]))
        axes = figure.add_subplot()
        positions = range(len(analysis["channels"]))
        for series, (colour, marker) in zip(analysis["series"], itertools.cycle(canvas.SERIES), strict=False):
            label = canvas.plain(series["name"])
            axes.plot(positions, series[field], label=label, color=colour, marker=marker, linewidth=1.2, markersize=4)
        axes.set_xlabel(f"{len(positions)} channels")
        axes.set_ylabel(field)
        axes.set_xticks([])
        canvas.clear_axes(axes)
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
        names = ", ".join(series["name"] for series in analysis["series"])
        return Picture(canvas.svg_uri(figure), f"The {field} per channel: {names}.", field.capitalize())


def _none(analysis: Analysis) -> list[Picture]:
    del analysis
    return []


_PICTURES: dict[str, Callable[[Analysis], list[Picture]]] = {
    ITERATION_CURVE: _curve,
    EPSILON_CURVE: _curve,
    TRANSFER_MATRIX: _heat_maps,
    LOSS_SURFACE: _surfaces,
    LARGE_EPSILON: _none,
    NORMALIZATION: _statistics,
}

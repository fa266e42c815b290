"""An experiment's figure: what was measured, and what is published where that is known in numbers."""

import pathlib
from collections.abc import Mapping
from typing import Any

from keras_robust.reports import canvas
from keras_robust.reproduction.experiment import Experiment, Row

Line = list[tuple[float, float]]
"""Points (x, percent)."""

STYLES = [(*series, line) for line in ("-", "-.", ":") for series in canvas.SERIES]
"""Colour, marker and line of what is measured."""


def draw_figure(experiment: Experiment, results: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws the figure of an experiment that has one: measured lines solid, published ones dashed.

    Args:
        experiment: with a `figure`.
        results: as `Runner.run` returns them.
        path: of an SVG file.
    """
    measured = lines_of(experiment, results)
    published = lines_of(experiment, None)
    figure_of = experiment.figure
    with canvas.style():
        figure = canvas.new_figure(6.4, 3.6)
        axes = figure.subplots()
        colours = {}
        for (label, points), (colour, marker, line) in zip(measured.items(), STYLES, strict=False):
            axes.plot(
                *zip(*points, strict=True), color=colour, marker=marker, linestyle=line, label=canvas.plain(label)
            )
            colours[label] = colour
        for label, points in published.items():
            # Of a column that was not measured it has a name of its own.
            name = None if label in colours else canvas.plain(label)
            colour = colours.get(label, canvas.NEUTRAL_COLOUR)
            axes.plot(*zip(*points, strict=True), color=colour, linestyle="--", linewidth=1, label=name)
        if figure_of.get("log"):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(canvas.plain(figure_of["label"]))
        axes.legend(title="dashed: published" if published else None, frameon=False, fontsize=9)
        canvas.percent_axis(axes)
        canvas.clear_axes(axes)
        path.write_bytes(canvas.svg_bytes(figure))


def lines_of(experiment: Experiment, results: Mapping[str, Any] | None) -> dict[str, Line]:
    """Returns the lines of an experiment's figure by label: those measured, or with no results those published."""
    if results is not None:
        experiment = experiment.at(results["scale"])
    lines: dict[str, Line] = {}
    for row in experiment.rows:
        numbers = row.published if results is None else _percentages(results["rows"][row.label]["values"])
        for label, x, title in _points(experiment, row):
            if title in numbers:
                lines.setdefault(label, []).append((x, numbers[title]))
    return lines


def _percentages(values: Mapping[str, Any]) -> dict[str, float]:
    return {title: 100 * value for title, value in values.items() if isinstance(value, float)}


def _points(experiment: Experiment, row: Row) -> list[tuple[str, float, str]]:
    """Returns (line, x, title of the column) of each point of a row."""
    if experiment.figure["x"] == "columns":
        return [(row.label, column.x, column.title) for column in experiment.columns if column.x is not None]
    plotted = experiment.figure["columns"]
    titles = [column.title for column in experiment.columns if column.title in plotted]
    of_several = len(plotted) > 1
    return [
        (f"{row.series}, {title}" if of_several else row.series, row.x, title) for title in titles if row.x is not None
    ]

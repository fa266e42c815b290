"""The page of all results: tables and figures that compare our measurements with the published numbers."""

import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_robust.reports import canvas, markdown
from keras_robust.reports.formatting import NOTHING
from keras_robust.reports.tables import make_table
from keras_robust.tools.reproduction.experiment import PAPER, SCALES, SMALL, SMOKE, Column, Experiment, Row

Results = Mapping[str, Any]
"""The results that `Runner.run` returns."""
SCALE_WORDS = {
    PAPER: "At the paper's scale",
    SMALL: "At small scale",
    SMOKE: "Smoke test: its numbers mean nothing",
}
PAGE_FILE = "RESULTS.md"
Line = list[tuple[float, float]]
"""Points (x, percent)."""
STYLES = [(*series, line) for line in ("-", "-.", ":") for series in canvas.SERIES]
"""Colour, marker and line style of measured lines."""


def results_table(experiment: Experiment, results: Results) -> str:
    """Returns a Markdown table of an experiment at one scale. Cells are measured / published, in percent or minutes."""
    at_scale = experiment.at(results["scale"])
    published = {title for row in at_scale.rows for title in row.published}
    columns = [column for column in experiment.columns if column in at_scale.columns or column.title in published]
    rows = []
    for row in at_scale.rows:
        values = results["rows"].get(row.label, {"values": {}})["values"]
        rows.append([row.label, *(_cell(column, values.get(column.title), row.published) for column in columns)])
    return _markdown_table(columns, rows)


def published_table(experiment: Experiment) -> str:
    """Returns a Markdown table of the published numbers, for an experiment that was not run."""
    columns = [column for column in experiment.columns if any(column.title in row.published for row in experiment.rows)]
    rows = [
        [row.label, *(_number(row.published.get(column.title)) for column in columns)]
        for row in experiment.rows
        if row.published
    ]
    return _markdown_table(columns, rows)


def results_page(experiments: Mapping[str, Experiment], results: Sequence[Results], folder: str = "results") -> str:
    """Returns the page of all experiments as Markdown.

    Args:
        experiments: experiments by name.
        results: results of some of these experiments, one per experiment and scale.
        folder: name of the folder of the results. It is in the same folder as the page.

    Raises:
        ValueError: if results are of an unknown experiment.
    """
    for result in results:
        if result["experiment"] not in experiments:
            raise ValueError(
                f"Results must be of one of {sorted(experiments)}. Received: experiment={result['experiment']!r}"
            )
    parts = [
        "# Results",
        f"`launch/reproduce.py` generates this page from the records in `{folder}/`. A cell is measured / published, "
        "or measured alone, in percent unless its column says minutes. A dash means not measured. In a section that "
        "says *Not measured here*, all numbers are the paper's. A robust accuracy is an upper bound: it holds only "
        "under the attack of its column. The first test images are the first of TFDS, which are not those of the "
        "published files.",
        _overview(experiments, results),
    ]
    for experiment in experiments.values():
        own = [result for result in results if result["experiment"] == experiment.name]
        parts += _section(experiment, own, folder)
    return "\n\n".join(parts) + "\n"


def write_results(experiment: Experiment, results: Results, folder: pathlib.Path) -> None:
    """Writes results, and their figure if there is one, into a folder from which `write_page` reads them.

    Args:
        experiment: the experiment of the results.
        results: the results that `Runner.run` returned.
        folder: the folder. It is created if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{results['experiment']}-{results['scale']}.json").write_text(json.dumps(results, indent=1) + "\n")
    if experiment.figure:
        draw_figure(experiment, results, folder / figure_name(results))


def write_page(experiments: Mapping[str, Experiment], folder: pathlib.Path) -> pathlib.Path:
    """Writes RESULTS.md next to a folder of results, and returns its path."""
    path = folder.parent / PAGE_FILE
    path.write_text(results_page(experiments, read_results(folder), folder.name))
    return path


def read_results(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns all results in a folder, sorted by scale and name."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda result: SCALES.index(result["scale"]))


def _overview(experiments: Mapping[str, Experiment], results: Sequence[Results]) -> str:
    rows = []
    for experiment in experiments.values():
        scales = [scale for scale in (PAPER, SMALL) if experiment.runs_at(scale)]
        measured = [result["scale"] for result in results if result["experiment"] == experiment.name]
        texts = [", ".join(scales) or "no scale", ", ".join(measured) or "not measured"]
        rows.append([experiment.name, experiment.source, experiment.title, *texts])
    titles = ("Experiment", "Source", "About", "Runs at scale", "Measured at")
    return markdown.format_table(make_table(titles, "lllll", rows))


def _section(experiment: Experiment, results: Sequence[Results], folder: str) -> list[str]:
    parts = [f"## {experiment.name}: {experiment.title}", f"{experiment.source}."]
    for result in results:
        parts += [f"**{SCALE_WORDS[result['scale']]}**. {_origin(result)}", results_table(experiment, result)]
        if experiment.figure:
            parts.append(f"![{experiment.title}]({folder}/{figure_name(result)})")
        if result["scale"] in experiment.remarks:
            parts.append(experiment.remarks[result["scale"]])
    if not results:
        parts.append(f"Not measured here. {experiment.remarks.get(PAPER, '')}".strip())
    if not results and any(row.published for row in experiment.rows):
        parts.append(published_table(experiment))
    return parts


def figure_name(results: Results) -> str:
    """Returns the file name of the figure of these results."""
    return f"{results['experiment']}-{results['scale']}.svg"


def _origin(result: Results) -> str:
    date = datetime.datetime.fromisoformat(result["created"]).date().isoformat()
    reported = {commit for row in result["rows"].values() for commit in row["commits"]}
    # Without reports, all numbers come from training: use the commit of the run.
    commits = sorted(map(_short, reported or {result["commit"] or "unknown"}))
    command = f"python launch/reproduce.py --experiment={result['experiment']} --scale={result['scale']}"
    return f"`{command} --workdir=WORKDIR --data_dir=DATA_DIR`; {date}, commit {', '.join(commits)}."


def _short(commit: str) -> str:
    """Returns a commit's first 8 characters, and "+changes" if there were uncommitted changes."""
    head, plus, changes = commit.partition("+")
    return head[:8] + plus + changes


def _markdown_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    headings = ("", *(column.title for column in columns))
    return markdown.format_table(make_table(headings, "l" + "r" * len(columns), rows))


def _cell(column: Column, value: float | str | bool | None, published: Mapping[str, float]) -> str:
    if column.measure == "report":
        return "report" if value else NOTHING
    if column.measure == "masked":
        return NOTHING if value is None else "yes" if value else "no"
    if value is not None and column.measure != "minutes":
        value = 100 * float(value)
    measured = NOTHING if value is None else f"{value:.1f}"
    return f"{measured} / {_number(published[column.title])}" if column.title in published else measured


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:g}"


def draw_figure(experiment: Experiment, results: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws the figure of an experiment, with published lines thin and dashed.

    Args:
        experiment: an experiment with a `figure`.
        results: the results that `Runner.run` returned.
        path: path of the SVG file to write.
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
            # Only a line that was not measured needs its own entry in the legend.
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
    """Returns the lines of an experiment's figure by label: measured ones, or without results published ones."""
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
    """Returns (label of the line, x, title of the column) for each point of a row."""
    if experiment.figure["x"] == "columns":
        return [(row.label, column.x, column.title) for column in experiment.columns if column.x is not None]
    plotted = experiment.figure["columns"]
    titles = [column.title for column in experiment.columns if column.title in plotted]
    of_several = len(plotted) > 1
    return [
        (f"{row.series}, {title}" if of_several else row.series, row.x, title) for title in titles if row.x is not None
    ]

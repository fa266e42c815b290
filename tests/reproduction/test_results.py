"""Tables, figures and the page of results."""

import pathlib

import pytest

from keras_robust.reports import canvas
from keras_robust.tools.reproduction import (
    Experiment,
    load_experiments,
    read_results,
    results_page,
    results_table,
    write_page,
    write_results,
)
from keras_robust.tools.reproduction.results import draw_figure, lines_of

ROOT = pathlib.Path(__file__).parents[2]
PGD = {"name": "pgd", "epsilon": 0.3, "steps": 4}
DEFINITION = {
    "title": "a | title",
    "source": "A. Author (2018), figure 1",
    "columns": {
        "PGD": {"attack": PGD, "x": 4},
        "PGD-8": {"attack": PGD | {"steps": 8}, "x": 8, "scales": ["paper"]},
        "Minutes": {"measure": "minutes"},
        "Report": {"attack": PGD, "measure": "report"},
        "Strong": {"attack": PGD, "suite": "autoattack", "scales": ["paper"]},
    },
    "rows": {
        "0": {"model": {"small": "m:0"}, "published": {"PGD": 25.0, "PGD-8": 20}, "series": "line", "x": 0},
        "1": {"model": {"small": "m:1"}, "series": "line", "x": 1},
        "theirs": {"published": {"PGD": 1.5, "Minutes": 780}},
    },
    "figure": {"x": "rows", "columns": ["PGD"], "label": "weight"},
    "remarks": {"small": "A remark."},
}
OLD, NEW = "0123456789abcdef", "fedcba9876543210+changes"
RESULTS = {
    "experiment": "figure1",
    "scale": "small",
    "rows": {
        "0": {
            "values": {"PGD": 0.5, "Minutes": 4.96, "Report": "somewhere"},
            "model": "m-0",
            "seconds": 297.6,
            "commits": [OLD],
        },
        "1": {
            "values": {"PGD": 0.8125, "Minutes": None, "Report": "somewhere"},
            "model": "m-1",
            "seconds": None,
            "commits": [NEW, OLD],
        },
        "theirs": {"values": {}, "model": None, "commits": []},
    },
    "commit": NEW,
    "created": "2026-11-20T12:00:00+00:00",
}


@pytest.fixture
def experiment():
    return Experiment.from_definition("figure1", DEFINITION)


def test_a_table_puts_measured_beside_published(experiment):
    """A column of another scale is there for its published numbers, and not without any."""
    assert results_table(experiment, RESULTS) == "\n".join(
        [
            "|  | PGD | PGD-8 | Minutes | Report |",
            "| --- | ---: | ---: | ---: | ---: |",
            "| 0 | 50.0 / 25 | - / 20 | 5.0 | report |",
            "| 1 | 81.2 | - | - | report |",
            "| theirs | - / 1.5 | - | - / 780 | - |",
        ]
    )


def test_lines_over_rows_and_over_columns(experiment):
    assert lines_of(experiment, RESULTS) == {"line": [(0, 50.0), (1, 81.25)]}
    assert lines_of(experiment, None) == {"line": [(0, 25.0)]}
    over_columns = Experiment.from_definition("figure1", {**DEFINITION, "figure": {"x": "columns", "label": "steps"}})
    assert lines_of(over_columns, RESULTS) == {"0": [(4, 50.0)], "1": [(4, 81.25)]}
    assert lines_of(over_columns, None) == {"0": [(4, 25.0), (8, 20)], "theirs": [(4, 1.5)]}


def lines_drawn(experiment, results, path, monkeypatch):
    """Returns (label, line style, colour) of each line of the figure."""
    drawn = []
    monkeypatch.setattr(canvas, "clear_axes", lambda axes: drawn.extend(axes.get_lines()))
    draw_figure(experiment, results, path)
    return [(line.get_label(), line.get_linestyle(), line.get_color()) for line in drawn]


def test_published_numbers_are_drawn_dashed(experiment, tmp_path, monkeypatch):
    """In the colour of what was measured; of another column they have a name of their own."""
    first, second = lines_drawn(experiment, RESULTS, tmp_path / "a.svg", monkeypatch)
    assert (first[:2], second[1], second[2]) == (("line", "-"), "--", first[2])
    figure = {**DEFINITION["figure"], "columns": ["PGD", "PGD-8"]}
    other = Experiment.from_definition("figure1", {**DEFINITION, "figure": figure})
    measured, same, strong = lines_drawn(other, RESULTS, tmp_path / "b.svg", monkeypatch)
    assert (measured[:2], same[1], same[2]) == (("line, PGD", "-"), "--", measured[2])
    assert (strong[:2], strong[2] != measured[2]) == (("line, PGD-8", "--"), True)


def test_every_line_is_drawn(tmp_path, monkeypatch):
    rows = {str(i): {"model": {"small": "m"}, "series": f"line {i}", "x": 0} for i in range(10)}
    results = {**RESULTS, "rows": {label: {"values": {"PGD": 0.5}} for label in rows}}
    lines = lines_drawn(
        Experiment.from_definition("figure1", {**DEFINITION, "rows": rows}), results, tmp_path / "a.svg", monkeypatch
    )
    assert [label for label, *_ in lines] == [f"line {i}" for i in range(10)]
    assert len(set(lines)) == len({line[1:] for line in lines}) == 10


def test_the_page_holds_what_was_measured_and_what_was_not(experiment, tmp_path):
    other = Experiment.from_definition("table1", {**DEFINITION, "figure": {}})
    folder = tmp_path / "results"
    write_results(experiment, RESULTS, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["figure1-small.json", "figure1-small.svg"]
    page = write_page({"figure1": experiment, "table1": other}, folder)
    text = page.read_text()
    assert page == tmp_path / "RESULTS.md"
    assert results_table(experiment, RESULTS) in text
    assert "![a | title](results/figure1-small.svg)" in text
    assert "; 2026-11-20, commit 01234567, fedcba98+changes." in text
    assert "A remark." in text
    assert "| table1 | A. Author (2018), figure 1 | a \\| title | small | not measured |" in text
    assert text.count("\nNot measured here.") == 1
    assert "| theirs | 1.5 | - | 780 |" in text  # of table1: published alone


def test_results_of_no_known_experiment_are_refused(experiment):
    with pytest.raises(ValueError, match="Received: experiment='figure1'"):
        results_page({"other": experiment}, [RESULTS])


def test_the_page_in_the_documentation_is_up_to_date():
    """`python launch/reproduce.py --workdir=W --results=docs/results` writes it again."""
    folder = ROOT / "docs" / "results"
    results = read_results(folder)
    assert all(result["scale"] != "smoke" for result in results)
    written = (ROOT / "docs" / "RESULTS.md").read_text()
    assert written == results_page(load_experiments(ROOT / "configs"), results)


def test_results_of_training_alone_are_of_the_commit_of_the_run(experiment):
    rows = {label: {**row, "commits": []} for label, row in RESULTS["rows"].items()}
    page = results_page({"figure1": experiment}, [{**RESULTS, "rows": rows}])
    assert "; 2026-11-20, commit fedcba98+changes." in page

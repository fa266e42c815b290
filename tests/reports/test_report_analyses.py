"""The analyses of a record: their tables and sentences, and what they must hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_robust.reports import analyses as sections_of
from keras_robust.reports import render_markdown
from keras_robust.reports.analyses import AccuracyCurve, curve_table
from keras_robust.reports.record import check_analysis, check_record

ITERATIONS, EPSILONS, TRANSFER, SURFACE, LARGE = range(5)
ROBUST = {0.5: [1, 1, 0, 0, 0, 0, 1, 1], 0.75: [1] * 6 + [0, 0], 0.625: [1] * 5 + [0] * 3, 0.25: [1, 1] + [0] * 6}


def test_every_analysis_has_a_section(full_record):
    text = render_markdown(full_record)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[2:7] == [
        "## Attack iterations",
        "## Size of the perturbation",
        "## Transfer between models",
        "## Loss surface",
        "## Images under a large perturbation",
    ]
    assert "<img" not in text


def test_iteration_curve(full_record):
    text = render_markdown(full_record)
    assert "Accuracy under PGD (Linf 0.3, step 0.01), by iterations. This analysis took 12.0 s." in text
    assert "**Accuracy still falls at 2,000 iterations.**" in text
    assert (
        "\n| Iterations | Accuracy |\n| ---: | ---: |\n| 10 | 80.0 % |\n| 40 | 70.0 % |\n| 2,000 | 65.0 % |\n" in text
    )


@pytest.mark.parametrize("flat", [True, False])
def test_a_curve_that_still_falls_is_suspicious(full_record, flat):
    full_record["analyses"][ITERATIONS]["flat"] = flat
    verdict = sections_of.sections(full_record)[ITERATIONS].verdicts[0]
    assert verdict.suspicious is not flat


def test_epsilon_curve(full_record):
    text = render_markdown(full_record)
    assert "by epsilon (Linf)." in text
    assert (
        "\n| Epsilon (Linf) | Accuracy |\n| ---: | ---: |\n| 0 | 90.0 % |\n| 0.15 | 80.0 % |\n| 0.3 | 0.0 % |\n" in text
    )


def test_transfer_matrix(full_record):
    text = render_markdown(full_record)
    assert "| Crafted on | Attack | Shown to runs/robust/best.keras |" in text
    assert "| runs/robust/best.keras | PGD-40 (Linf 0.3) | 25.0 % (white box) |" in text
    assert "| runs/plain/best.keras | PGD-40 (Linf 0.3) | 62.5 % |" in text
    assert (
        "| runs/robust/best.keras | ⚠ Suspicious | FGSM (Linf 0.3) | 75.0 % | 50.0 % | runs/plain/best.keras "
        "| Transferred examples are stronger. |"
    ) in text
    assert "**Gradient shattering in 1 of 1 comparison.**" in text


def test_transfer_without_shattering(full_record):
    full_record["analyses"][TRANSFER]["verdicts"][0]["shattered"] = False
    text = render_markdown(full_record)
    assert "**No sign of gradient shattering in 1 comparison.**" in text
    assert "| Not suspicious | FGSM" in text


def test_transfer_without_a_verdict(full_record):
    full_record["analyses"][TRANSFER]["verdicts"] = []
    section = sections_of.sections(full_record)[TRANSFER]
    assert section.verdicts == []
    assert len(section.tables) == 1


def test_loss_surface(full_record):
    """Of the offsets -0.3, 0, 0.3 and -0.3, 0.3 those nearest to the image are 0 and the first of the two, -0.3."""
    section = sections_of.sections(full_record)[SURFACE]
    assert (
        "around 5 examples. Each example is moved by up to 0.3 (Linf) along the gradient direction and the random"
        in (section.introduction)
    )
    assert section.tables[0].rows[0] == ("4", "1", "0.25", "3")
    full_record["analyses"][SURFACE]["axes"] = ["random", "random"]
    introduction = sections_of.sections(full_record)[SURFACE].introduction
    assert "along the first random direction and the second random direction" in introduction


def test_an_unknown_duration_is_not_shown(full_record):
    full_record["analyses"][LARGE]["seconds"] = None
    assert "took" not in sections_of.sections(full_record)[LARGE].introduction


@given(
    st.lists(st.dictionaries(st.integers(1, 10**6), st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=4)
)
def test_a_table_of_curves_holds_every_point(points):
    """One row per value of x of any curve; a curve that has none there shows a dash."""
    curves = [AccuracyCurve(str(number), sorted(of), [of[x] for x in sorted(of)]) for number, of in enumerate(points)]
    table = curve_table(curves, "iterations")
    assert table.columns == ("Iterations", *(curve.label for curve in curves))
    union = sorted({x for of in points for x in of})
    assert len(table.rows) == len(union)
    for x, row in zip(union, table.rows, strict=True):
        assert [cell == "-" for cell in row[1:]] == [x not in of for of in points]


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("field", ["kind", "seconds", "verdict", "accuracy", "losses", "arrays", "verdicts"])
def test_missing_fields_are_named(full_record, kind, field):
    if full_record["analyses"][kind].pop(field, None) is not None:
        with pytest.raises(ValueError, match=rf"Missing in record\['analyses'\]\[{kind}\]: '{field}'. Received: keys"):
            check_record(full_record)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (ITERATIONS, {"kind": "histogram"}),
        (ITERATIONS, {"iterations": [0, 1, 2]}),
        (ITERATIONS, {"iterations": [10, 10, 20]}),
        (ITERATIONS, {"iterations": [], "accuracy": []}),
        (ITERATIONS, {"accuracy": [0.5, 0.4]}),
        (ITERATIONS, {"accuracy": [0.5, 0.4, None]}),
        (ITERATIONS, {"accuracy": [0.5, 0.4, "low"]}),
        (EPSILONS, {"accuracy": [50, 40, 30]}),
        (EPSILONS, {"epsilons": [0.3, 0.2, 0.1]}),
        (TRANSFER, {"accuracy": [[0.5, 0.75]]}),
        (TRANSFER, {"white_box": [[True]]}),
        (TRANSFER, {"attacks": [], "accuracy": []}),
        (SURFACE, {"losses": [[[0.5, 0.25]]]}),
        (SURFACE, {"first": [0.0]}),
        (SURFACE, {"axes": ["gradient"]}),
    ],
)
def test_analyses_that_contradict_themselves_raise(analyses, kind, changes):
    with pytest.raises(ValueError, match=r"here.*Received: "):
        check_analysis(analyses[kind] | changes, "here")


@pytest.mark.parametrize(
    "change", [{"white_box": 0.5}, {"transferred": 0.75}, {"source": "nobody"}, {"attack": "APGD"}, {"target": "x"}]
)
def test_verdicts_on_transfer_follow_from_the_matrix(analyses, change):
    analyses[TRANSFER]["verdicts"][0].update(change)
    with pytest.raises(ValueError, match=r"here\['verdicts'\]\[0\].*Received: "):
        check_analysis(analyses[TRANSFER], "here")


def test_curves_follow_from_their_examples(analyses):
    """Of 20 examples 4 are broken by 10 iterations, 2 more by 40, 1 more by 2000, and 13 never: 80, 70 and 65 %."""
    analysis = analyses[ITERATIONS]
    analysis["broken_at"] = [0] * 2 + [10] * 2 + [40] * 2 + [2000] + [None] * 13
    check_analysis(analysis, "here")
    analysis["broken_at"][-1] = 40
    with pytest.raises(ValueError, match=r"here\['accuracy'\] must be the means.*Received: \[0.8, 0.7, 0.65\]"):
        check_analysis(analysis, "here")


def test_a_matrix_follows_from_its_examples(analyses):
    analysis = analyses[TRANSFER]
    analysis["robust"] = [[[ROBUST[cell] for cell in row] for row in matrix] for matrix in analysis["accuracy"]]
    check_analysis(analysis, "here")
    analysis["robust"] = np.zeros((2, 2, 1, 8)).tolist()
    with pytest.raises(ValueError, match="must be the means"):
        check_analysis(analysis, "here")

"""Comparisons: one row per model, and what cannot be compared is said."""

import copy

import pytest
from report_pages import Page

from keras_robust.reports import compare_records, write_comparison
from keras_robust.reports.comparison import COMPARABLE, attacks_table, comparability_notes, models_table

NAMES = ["plain", "robust"]


@pytest.fixture
def pair(record):
    """Two records of the same attack; the second model is right on all clean images."""
    other = copy.deepcopy(record)
    other |= {"clean_accuracy": 1.0, "clean_predictions": record["labels"]}
    other["model"] = {"source": "runs/other/best.keras", "parameters": None}
    return [record, other]


def test_models_table(pair):
    table = "\n".join(
        [
            "| Model | Clean | Robust accuracy | 95 % interval | Measured by | Suspicious checks | Parameters "
            "| Examples | Data set | PGD-40 Linf 0.3, step 0.01, 5 restarts |",
            "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | --- | ---: |",
            "| plain | 90.0 % | 70.0 % | 39.7 to 89.2 % | PGD-40 Linf 0.3, step 0.01, 5 restarts | 0 of 1 | 3,274,634 "
            "| 10 | mnist_small test | 70.0 % |",
            "| robust | 100.0 % | 70.0 % | 39.7 to 89.2 % | PGD-40 Linf 0.3, step 0.01, 5 restarts | 0 of 1 | - "
            "| 10 | mnist_small test | 70.0 % |",
        ]
    )
    markdown, page = compare_records(pair, NAMES)
    assert f"\n{table}\n" in markdown
    assert COMPARABLE in markdown
    assert "Robust accuracy is an upper bound" in Page(page).text


def test_page_is_self_contained(full_record, pair):
    page = Page(compare_records([*pair, full_record], ["a", "b", "c"])[1])
    page.check_self_contained()
    assert page.tags.count("table") == 2


def test_a_suite_is_not_compared_with_single_attacks(pair, suite_record):
    """The same name stands for other examples in a cascade: its column is another one."""
    single = copy.deepcopy(pair[1])
    single["attacks"] = {"Square": 0.7}
    single["details"] = {"Square": next(iter(pair[1]["details"].values()))}
    named = dict(zip(NAMES, [suite_record, single], strict=True))
    table = models_table(named)
    assert table.columns[-3:] == ("after APGD-CE", "after Square", "Square")
    assert [row[-3:] for row in table.rows] == [("70.0 %", "50.0 %", "-"), ("-", "-", "70.0 %")]
    assert table.rows[0][4] == "AutoAttack standard (Linf 0.3)"
    assert comparability_notes(named) == [
        "Robust accuracy was not measured by the same attacks: AutoAttack standard (Linf 0.3) for plain; "
        "Square for robust."
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset": "other"}, "The data sets differ: mnist_small test for plain; other for robust."),
        ({"threat_model": None}, "The threat models differ: "),
        ({"labels": [0] * 10, "clean_predictions": [0] * 10}, "The labels differ: these are not the same examples"),
        ({"black_box_source": "x.keras"}, "Robust accuracy was not measured by the same attacks: "),
    ],
)
def test_what_differs_is_noted(pair, changes, expected):
    pair[1] |= changes
    found = comparability_notes(dict(zip(NAMES, pair, strict=True)))
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_other_settings_under_the_same_name_are_noted(pair):
    next(iter(pair[1]["details"].values()))["settings"] = {"class_name": "PGD", "config": {"steps": 4}}
    markdown, page = compare_records(pair, NAMES)
    expected = 'The attack "PGD-40 Linf 0.3, step 0.01, 5 restarts" had different settings in: plain, robust.'
    assert expected in markdown
    assert expected in Page(page).text
    assert COMPARABLE not in markdown


def test_a_suite_depends_on_all_attacks_before(suite_record):
    """Other settings of the first attack change what the second one saw."""
    other = copy.deepcopy(suite_record)
    other["details"]["APGD-CE"]["settings"] = {}
    found = comparability_notes({"plain": suite_record, "robust": other})
    assert [note.split('"')[1] for note in found] == ["after APGD-CE", "after Square"]


def test_notes_of_a_record_are_those_of_a_comparison(pair):
    pair[1]["notes"] = ["The classifier is random at inference."]
    text, page = compare_records(pair, NAMES)
    assert "robust: The classifier is random at inference." in text
    assert "robust: The classifier is random at inference." in Page(page).text


def test_the_number_of_examples_is_noted(pair):
    short = copy.deepcopy(pair[0])
    short |= {"examples": 5, "labels": [0] * 5, "clean_predictions": [0] * 5, "attacks": {}, "details": {}}
    short["clean_accuracy"] = 1.0
    markdown, _ = compare_records([pair[0], short], NAMES)
    assert "The numbers of examples differ: 10 for plain; 5 for robust." in markdown
    assert "| robust | 100.0 % | - | - | no attack | 0 of 1 |" in markdown


def test_checks_side_by_side(pair):
    pair[0]["checks"][0]["suspicious"] = True
    pair[1]["checks"] = [pair[0]["checks"][0] | {"name": "zero_gradients", "value": None, "suspicious": False}]
    markdown, _ = compare_records(pair, NAMES)
    assert "| full_epsilon_reaches_zero | ⚠ Suspicious (0.083) | - |" in markdown
    assert "| zero_gradients | - | Not run |" in markdown
    assert "| 1 of 1 |" in markdown
    for record in pair:
        record["checks"] = []
    assert "No gradient masking checks were run." in compare_records(pair, NAMES)[0]


def test_curves_are_overlaid(pair, analyses):
    """A second curve with a point that the first one lacks."""
    for record in pair:
        record["analyses"] = copy.deepcopy(analyses)
    pair[1]["analyses"][0] |= {"iterations": [10, 100, 2000], "attack": "PGD (Linf 0.3, step 0.02)"}
    markdown, page = compare_records(pair, NAMES)
    assert "| Iterations | plain, PGD (Linf 0.3, step 0.01) | robust, PGD (Linf 0.3, step 0.02) |" in markdown
    assert "\n| 40 | 70.0 % | - |\n| 100 | - | 70.0 % |\n" in markdown
    assert "Accuracy under PGD-40 (Linf, step 0.01).\n\n| Epsilon (Linf) | plain | robust |" in markdown
    assert len(Page(page).pictures) == 2


def test_one_curve_alone_and_other_norms_are_not_overlaid(pair, analyses):
    pair[0]["analyses"] = analyses
    assert Page(compare_records(pair, NAMES)[1]).pictures == []
    pair[1]["analyses"] = [analyses[1] | {"norm": "l2"}]
    assert Page(compare_records(pair, NAMES)[1]).pictures == []


def test_many_attacks_have_a_table_of_their_own(pair):
    detail = next(iter(pair[0]["details"].values()))
    for number in range(8):
        pair[0]["attacks"][f"attack {number}"] = 0.7
        pair[0]["details"][f"attack {number}"] = detail
    table = attacks_table(dict(zip(NAMES, pair, strict=True)))
    assert table.columns == ("Attack", "plain", "robust")
    assert table.rows[-1] == ("attack 7", "70.0 %", "-")
    markdown, page = compare_records(pair, NAMES)
    assert "\n| attack 7 | 70.0 % | - |\n" in markdown
    assert Page(page).tags.count("table") == 3


def test_names_are_where_the_models_came_from(pair):
    pair.append(copy.deepcopy(pair[1]))
    markdown, _ = compare_records(pair)
    for name in ("runs/demo/best.keras", "runs/other/best.keras (1)", "runs/other/best.keras (2)"):
        assert f"\n| {name} | " in markdown


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_names_are_different_and_one_per_record(pair, names):
    with pytest.raises(ValueError, match=r"names must be 2 different names, one per record. Received: names="):
        compare_records(pair, names)


def test_nothing_to_compare():
    with pytest.raises(ValueError, match=r"at least one record. Received: records=\[\]"):
        compare_records([])


def test_hostile_names_stay_text(pair):
    name = "<script>alert(1)</script>/|_"
    markdown, source = compare_records(pair, [name, "b"])
    page = Page(source)
    page.check_self_contained()
    assert name in page.text
    assert r"&lt;script&gt;alert(1)&lt;/script&gt;/\|_" in markdown


def test_write_comparison_writes_both_files(pair, tmp_path):
    write_comparison(pair, tmp_path, names=NAMES)
    markdown, page = compare_records(pair, NAMES)
    assert (tmp_path / "compare.md").read_text(encoding="utf-8") == markdown
    assert (tmp_path / "compare.html").read_text(encoding="utf-8") == page


def test_a_record_that_contradicts_itself_writes_nothing(pair, tmp_path):
    pair[1]["robust_accuracy"] = 0.9
    with pytest.raises(ValueError, match=r"robust_accuracy must be 0\.7"):
        write_comparison(pair, tmp_path)
    assert list(tmp_path.iterdir()) == []

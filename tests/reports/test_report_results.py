"""Suites, ranks and intervals: what is shown of them, and that it follows from the per-example results."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_pages import Page

from keras_robust.reports import render_html, render_markdown, tables, wording
from keras_robust.reports.record import check_record, wilson_interval


def test_rows_of_a_suite_are_cumulative(suite_record):
    """7 of 10 withstand the first attack, 5 both; 8 keep their label in the top 5 throughout."""
    table = "\n".join(
        [
            "| Images | Accuracy | 95 % interval | Top 5 | Examples | Attacked | Time |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            "| Clean | 90.0 % | 59.6 to 98.2 % | 100.0 % | 10 | - | - |",
            "| after APGD-CE | 70.0 % | 39.7 to 89.2 % | 80.0 % | 10 | 9 | 3.0 s |",
            "| after Square | 50.0 % | 23.7 to 76.3 % | 80.0 % | 10 | 8 | 3.0 s |",
            "| AutoAttack standard (Linf 0.3) | 50.0 % | 23.7 to 76.3 % | 80.0 % | 10 | - | 6.0 s |",
        ]
    )
    text = render_markdown(suite_record)
    assert f"\n{table}\n" in text
    assert "Worst case" not in text


def test_notes_of_a_suite(suite_record):
    notes = wording.accuracy_notes(suite_record)
    assert notes[:2] == [wording.CASCADE, "Of 10 classes all 9 wrong ones were targets."]
    assert notes[2].startswith("Top 5: the label is among the 5 highest logits")


def test_verdict_names_the_suite_alone(suite_record):
    assert wording.verdict(suite_record) == (
        "90.0 % correct on clean images; 50.0 % still correct under AutoAttack standard (Linf 0.3), "
        "worst case per example, 10 examples. An upper bound on the true robustness."
    )
    suite_record["black_box_source"] = "other.keras"
    assert "under black-box AutoAttack standard (Linf 0.3), crafted on other.keras" in wording.verdict(suite_record)


def test_settings_of_a_suite_come_first(suite_record):
    headings = [heading for heading, _ in tables.full_settings(suite_record)]
    assert headings == ["Suite: AutoAttack standard (Linf 0.3)", "Attack: APGD-CE", "Attack: Square"]


def test_page_of_a_suite(suite_record, samples):
    page = Page(render_html(suite_record, samples))
    page.check_self_contained()
    assert "after APGD-CE" in page.text
    assert "Attacked" in page.text
    assert "Of 10 classes all 9 wrong ones were targets." in page.text


@pytest.mark.parametrize("field", ["suite", "top_k", "analyses", "robust_accuracy_interval"])
def test_new_fields_may_be_null(record, field):
    expected = render_markdown(record)
    record[field] = None
    assert render_markdown(record) == expected


def test_a_batch_size_is_provenance(suite_record):
    assert ("Batch size", "128") in tables.provenance_rows(suite_record)


def test_broken_examples_stay_broken_in_a_suite(suite_record):
    """Example 7 was broken by the first attack, and cannot withstand both."""
    detail = suite_record["details"]["Square"]
    detail["robust"] = [True] * 4 + [False, False, False, True, False, False]
    detail["ranks"] = np.where(detail["robust"], 0, 1).tolist()
    suite_record["top_k"] = None
    with pytest.raises(ValueError, match=r"Received: details\['Square'\] with 1 that are, the first at position 7"):
        check_record(suite_record)


def test_ranks_and_results_agree(suite_record):
    suite_record["details"]["APGD-CE"]["ranks"][2] = 3
    with pytest.raises(ValueError, match=r"rank 0 .*Received: 1 that differ, the first at position 2"):
        check_record(suite_record)


@pytest.mark.parametrize("interval", [[0.2, 0.8], [0.5], [-0.1, 0.7], "wide", [None, 0.8]])
def test_an_interval_that_is_not_that_of_the_results(record, interval):
    """The score interval of 7 in 10 is 0.397 to 0.892."""
    record["robust_accuracy_interval"] = interval
    with pytest.raises(ValueError, match=r"robust_accuracy_interval.*Received: "):
        check_record(record)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("robust_accuracy", 0.7),
        ("clean_accuracy", 0.8),
        ("clean_accuracy", float("nan")),
        ("attacks", {"APGD-CE": 0.8, "Square": 0.7}),
        ("attacks", {"Square": 0.8}),
        ("robust_accuracy_interval", [0.1, 0.2]),
        ("k", 2),
    ],
)
def test_top_k_follows_from_the_ranks(suite_record, field, value):
    suite_record["top_k"][field] = value
    with pytest.raises(ValueError, match=r"top_k.*Received: "):
        check_record(suite_record)


def test_top_k_needs_ranks(suite_record):
    del suite_record["details"]["Square"]["ranks"]
    with pytest.raises(ValueError, match=r"\['Square'\]: 'ranks'"):
        check_record(suite_record)


def test_a_suite_is_complete(suite_record):
    del suite_record["suite"]["notes"]
    with pytest.raises(ValueError, match=r"record\['suite'\]: 'notes'. Received: keys"):
        check_record(suite_record)


@pytest.fixture(scope="module")
def no_results():
    """A record without labels, predictions and attacks."""
    keys = ("model", "black_box_source", "dataset", "seed", "seconds", "versions", "commit", "command", "created")
    empty = dict.fromkeys(keys) | {"model": {"source": "model"}, "versions": {}, "training": None, "checks": []}
    return empty | {"schema_version": 1}


def cascade(no_results, ranks, k):
    """The record of a suite with these ranks, one row per attack, and of a model that is right on all."""
    worst = np.maximum.accumulate(ranks, axis=0)
    names = [f"attack {number}" for number in range(len(worst))]

    def accuracies(k):
        within = worst < k
        return {
            "clean_accuracy": 1.0,
            "attacks": dict(zip(names, within.mean(axis=1).tolist(), strict=True)),
            "robust_accuracy": float(within[-1].mean()),
            "robust_accuracy_interval": list(wilson_interval(int(within[-1].sum()), within.shape[1])),
        }

    details = {
        name: {"settings": {}, "seconds": None, "ranks": row.tolist(), "robust": (row == 0).tolist()}
        for name, row in zip(names, worst, strict=True)
    }
    labels = [0] * ranks.shape[1]
    record = copy.deepcopy(no_results) | accuracies(1)
    record |= {"examples": len(labels), "labels": labels, "clean_predictions": labels, "details": details}
    return record | {"suite": {"name": "suite", "settings": {}, "notes": []}, "top_k": {"k": k, **accuracies(k)}}


ranks_of_attacks = st.integers(1, 8).flatmap(
    lambda examples: st.lists(st.lists(st.integers(0, 9), min_size=examples, max_size=examples), min_size=1, max_size=4)
)


@given(ranks=ranks_of_attacks, k=st.integers(2, 9))
def test_every_cascade_is_consistent(no_results, ranks, k):
    """What follows from ranks passes the checks; rows never rise, and the top k is at least the top 1."""
    record = cascade(no_results, np.array(ranks), k)
    check_record(record)
    rows = tables.accuracy_rows(record)
    accuracies = [[float(text.removesuffix(" %")) for text in (row.accuracy, row.top_k)] for row in rows]
    assert (np.diff(accuracies, axis=0) <= 0).all()
    assert all(top_k >= accuracy for accuracy, top_k in accuracies)

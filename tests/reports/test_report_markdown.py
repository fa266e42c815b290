"""The Markdown report, the sentences it shares with the page, and what a record must hold."""

import pytest
from report_pages import Page

from keras_robust.reports import formatting, render_html, render_markdown, tables, wording
from keras_robust.reports.record import FIELDS

ATTACK = "PGD-40 Linf 0.3, step 0.01, 5 restarts"


def test_accuracy_table(record):
    """The score interval of 9 in 10 is 59.6 to 98.2 %, that of 7 in 10 is 39.7 to 89.2 %."""
    table = "\n".join(
        [
            "| Images | Accuracy | 95 % interval | Examples | Time |",
            "| --- | ---: | ---: | ---: | ---: |",
            "| Clean | 90.0 % | 59.6 to 98.2 % | 10 | - |",
            "| PGD-40 Linf 0.3, step 0.01, 5 restarts | 70.0 % | 39.7 to 89.2 % | 10 | 71.2 s |",
            "| Worst case | 70.0 % | 39.7 to 89.2 % | 10 | 71.2 s |",
        ]
    )
    settings = r"PGD(threat_model=Linf(epsilon=0.3, bounds=\[0, 1]), steps=40, step_size=0.01), restarts=5"
    text = render_markdown(record)
    assert f"\n{table}\n" in text
    assert "The worst case is taken per example, over 1 attack." in text
    assert f"- **PGD-40 Linf 0.3, step 0.01, 5 restarts**: {settings}\n" in text


def test_worst_case_is_per_example(two_attacks):
    """Seven and six withstand one attack each, five of them both."""
    rows = tables.accuracy_rows(two_attacks)
    assert [row.accuracy for row in rows] == ["90.0 %", "70.0 %", "60.0 %", "50.0 %"]
    assert rows[-1].interval == "23.7 to 76.3 %"
    assert rows[-1].seconds == "79.2 s"


def test_check_rows(record):
    line = (
        "| full_epsilon_reaches_zero | Not suspicious | An unbounded attack leaves almost nothing. | 0.083 | 0.01 "
        "| Athalye et al. (2018) |"
    )
    assert line in render_markdown(record)


def test_notes_are_under_the_first_sentence_and_only_there(record, samples):
    """What the number must not be quoted without; a record of before has none."""
    assert "**Note.**" not in render_markdown(record)
    record["notes"] = ["The classifier is random.", "PGD had *no* gradient."]
    text, page = render_markdown(record), Page(render_html(record, samples))
    assert "**Note.** The classifier is random.\n\n**Note.** PGD had \\*no\\* gradient.\n\n## Accuracy" in text
    assert "Note. The classifier is random. Note. PGD had *no* gradient." in page.text
    assert text.count("The classifier is random.") == page.text.count("The classifier is random.") == 1
    assert page.text.index("Note.") < page.text.index("Gradient masking checks")


def test_devices_and_threads_are_in_the_provenance(record):
    assert "| Devices | - |\n| CPU threads | - |" in render_markdown(record)
    record |= {"devices": ["CPU", "GPU NVIDIA H200"], "threads": {"intra_op": 8, "inter_op": 2}}
    lines = "| Devices | CPU, GPU NVIDIA H200 |\n| CPU threads | 8 per operation, 2 operations at once |"
    assert lines in render_markdown(record)


def test_no_checks(record):
    record["checks"] = []
    expected = "No gradient masking checks were run: treat robust accuracy as an upper bound."
    assert expected in render_markdown(record)


def test_a_check_without_a_value_was_not_run(record):
    skipped = record["checks"][0] | {"name": "gradient_free", "value": None}
    record["checks"].append(skipped)
    text = render_markdown(record)
    assert "| gradient_free | Not run | An unbounded attack leaves almost nothing. | - | 0.01 |" in text
    assert "1 gradient masking check, none suspicious." in text
    assert "1 more could not be run." in text
    record["checks"] = [skipped]
    assert "None of 1 gradient masking check could be run: treat" in render_markdown(record)


def test_training_values_name_their_attack(record):
    text = render_markdown(record)
    assert "| Accuracy, validation, attacked | 65.3 % |" in text
    assert "in training name=pgd, steps=7" in text
    record["training"]["config"] = {}
    assert "configuration of the run does not name this attack" in render_markdown(record)


def test_verdict_names_the_attack(record):
    assert wording.verdict(record) == (
        "90.0 % correct on clean images; 70.0 % still correct under PGD-40 Linf 0.3, step 0.01, 5 restarts, "
        "worst case per example, 10 examples. An upper bound on the true robustness."
    )


def test_verdict_names_every_attack(two_attacks):
    assert (
        "50.0 % still correct under the strongest of 2 attacks for each example "
        "(PGD-40 Linf 0.3, step 0.01, 5 restarts; Square; 10 examples)"
    ) in wording.verdict(two_attacks)


def test_verdict_of_a_suspicious_evaluation(record):
    record["checks"][0]["suspicious"] = True
    assert wording.verdict(record).endswith("Gradient masking is suspected: the true robustness is probably lower.")


def test_black_box_is_said(record):
    record["black_box_source"] = "runs/other/best.keras"
    text = render_markdown(record)
    assert "still correct under black-box PGD-40" in text
    assert "crafted on runs/other/best.keras" in text
    assert "**Black box.**" in text
    assert "| Attacked model | runs/other/best.keras |" in text


def test_without_an_attack_no_robust_accuracy(record):
    record |= {"attacks": {}, "details": {}}
    text = render_markdown(record)
    assert "No attack was run: robustness was not measured." in text
    assert "70.0 %" not in text
    assert "Worst case" not in text


def test_threat_model_may_be_absent(record):
    del record["threat_model"]
    assert "| Threat model | see the settings of each attack |" in render_markdown(record)


def test_hostile_text_cannot_leave_its_cell(record):
    record["dataset"] = "a | b\n\n# c <img src=x> ![d](http://example.org/e.png) `f`"
    text = render_markdown(record)
    assert r"| Data set | a \| b # c &lt;img src=x&gt; !\[d](http://example.org/e.png) \`f\` |" in text


@pytest.mark.parametrize("field", FIELDS)
def test_missing_fields_are_named(record, field):
    del record[field]
    with pytest.raises(ValueError, match=rf"Missing in the record: '{field}'. Received: keys \["):
        render_markdown(record)


def test_missing_details_are_named(record):
    detail = next(iter(record["details"].values()))
    del detail["robust"]
    with pytest.raises(ValueError, match=r"record\['details'\]\['PGD-40.*'robust'"):
        render_markdown(record)
    record["details"] = {}
    with pytest.raises(ValueError, match="'PGD-40 Linf"):
        render_markdown(record)


def test_missing_parts_of_checks_and_training_are_named(record):
    del record["checks"][0]["reason"]
    with pytest.raises(ValueError, match=r"record\['checks'\]\[0\]: 'reason'"):
        render_markdown(record)
    record["checks"] = []
    del record["training"]["history"]
    with pytest.raises(ValueError, match=r"record\['training'\]: 'history'"):
        render_markdown(record)


@pytest.mark.parametrize(
    ("field", "value"), [("robust_accuracy", 0.8), ("clean_accuracy", float("nan")), ("attacks", {"PGD": 1.0})]
)
def test_accuracies_must_follow_from_the_examples(record, field, value):
    if field == "attacks":
        record["details"] = {"PGD": next(iter(record["details"].values()))}
    record[field] = value
    with pytest.raises(ValueError, match=rf"{field}.* must be 0\.\d+, the mean of its per-example results"):
        render_markdown(record)


@pytest.mark.parametrize(("field", "value"), [("labels", [1, 2]), ("examples", 0), ("schema_version", 2)])
def test_impossible_records_raise(record, field, value):
    record[field] = value
    with pytest.raises(ValueError, match="Received: "):
        render_markdown(record)


def test_model_details_are_provenance(record):
    record["model"]["name"] = "lenet"
    assert ("Model details", "name=lenet") in tables.provenance_rows(record)


def test_unknown_model_details_are_left_out(record):
    record["model"]["sha256"] = None
    assert "Model details" not in dict(tables.provenance_rows(record))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"steps": 40, "target": None, "step_size": 0.01}, "steps=40, step_size=0.01"),
        ({"threat_model": {"norm": "l2"}}, "threat_model=(norm=l2)"),
        ([{"class_name": "FGSM", "config": {}}, 3], "[FGSM(), 3]"),
        ({"class_name": "L2", "config": None}, "class_name=L2"),
    ],
)
def test_settings_summary(settings, expected):
    assert formatting.settings_summary(settings) == expected


@pytest.mark.parametrize("training", [None, {"config": {}, "history": {"learning_rate": [0.1]}}])
def test_no_history_to_tell(record, training):
    record["training"] = training
    text = render_markdown(record)
    assert "No training history is recorded for this model." in text
    assert "After epoch" not in text


@pytest.fixture
def targeted(record):
    """Of nine examples that were attacked three reached their target."""
    reached = [True, False, True, False, False, True, False, False, False, None]
    record["details"][ATTACK] |= {"aim": "given", "reached_target": reached}
    return record | {"targeted_success": {ATTACK: 1 / 3}}


def test_target_table(targeted, samples):
    """The score interval of 3 in 9 is 12.1 to 64.6 %."""
    row = f"| {ATTACK} | given | 33.3 % | 12.1 to 64.6 % | 9 |"
    text = render_markdown(targeted)
    assert "\n## Targets\n" in text
    assert row in text
    assert "made the classifier predict the target class" in text
    assert "stops attacking an example" not in text
    page = render_html(targeted, samples)
    assert "33.3 %" in page
    assert "Reached its target" in page
    targeted["details"][ATTACK]["aim"] = "random"
    assert "stops attacking an example" in render_markdown(targeted)


def test_no_target_table_without_targets(record, samples):
    for text in (render_markdown(record), render_markdown(record | {"targeted_success": {}})):
        assert "Targets" not in text
    assert "Reached its target" not in render_html(record, samples)


def test_an_attack_that_was_run_on_nothing_reached_no_target(targeted):
    targeted["targeted_success"][ATTACK] = None
    with pytest.raises(ValueError, match="targeted_success"):
        render_markdown(targeted)
    targeted["details"][ATTACK]["reached_target"] = [None] * 10
    assert f"| {ATTACK} | given | - | - | 0 |" in render_markdown(targeted)


@pytest.mark.parametrize("share", [0.4, 1.0, 0.0])
def test_a_share_that_the_examples_contradict_is_refused(targeted, share):
    targeted["targeted_success"][ATTACK] = share
    with pytest.raises(ValueError, match=r"targeted_success\[.* must be 0.333333.*Received: "):
        render_markdown(targeted)


def test_epsilons_by_example_are_said(record):
    record |= {"epsilons": [0.1, 0.25, *[0.2] * 8]}
    assert "There is one epsilon per example, from 0.1 to 0.25. It replaces" in render_markdown(record)

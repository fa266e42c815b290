"""The sentences of a report. None gives a robust accuracy without the attack that measured it."""

from collections.abc import Sequence

import numpy as np

from keras_robust.reports import formatting
from keras_robust.reports.record import Record

NO_CHECKS = "No gradient masking checks were run: treat robust accuracy as an upper bound."
NO_HISTORY = "No training history is recorded for this model."
INTERVALS = (
    "Intervals are 95 % Wilson score intervals: they say how far the number of examples limits the precision, "
    "not how much a stronger attack would find."
)
CASCADE = (
    "The attacks of the suite ran one after another, each on the examples that the ones before it had left: "
    "a row counts the examples that withstood its attack and all before it."
)


def epsilons(values: Sequence[float] | np.ndarray) -> str:
    """What the balls of an evaluation with one epsilon per example have in common."""
    return f"one epsilon per example, from {min(values):.4g} to {max(values):.4g}"


def title(record: Record) -> str:
    """The heading: model and data set."""
    return f"Robustness of {record['model']['source']} on {record['dataset']}"


def verdict(record: Record) -> str:
    """One line: clean accuracy, robust accuracy, the attacks that measured it and what it is worth."""
    clean = f"{formatting.percent(record['clean_accuracy'])} correct on clean images"
    examples = formatting.count(record["examples"], "example")
    names = attackers(record)
    if not names:
        return f"{clean} ({examples}). No attack was run: robustness was not measured."
    robust = f"{formatting.percent(record['robust_accuracy'])} still correct under"
    crafted = f", crafted on {record['black_box_source']}" if record["black_box_source"] else ""
    access = "black-box " if record["black_box_source"] else ""
    if len(names) == 1:
        return f"{clean}; {robust} {access}{names[0]}{crafted}, worst case per example, {examples}. {_worth(record)}"
    attacks = (
        f"the strongest of {len(names)} {access}attacks for each example{crafted} ({'; '.join(names)}; {examples})"
    )
    return f"{clean}; {robust} {attacks}. {_worth(record)}"


def attackers(record: Record) -> list[str]:
    """What measured the robust accuracy: the suite, or else every attack."""
    suite = record.get("suite")
    return [suite["name"]] if suite and record["attacks"] else list(record["attacks"])


def access(record: Record) -> tuple[str, str]:
    """What the attacker knew: a short name and a sentence."""
    source = record["black_box_source"]
    if source:
        return "Black box", (
            f"The attacked images were crafted on another model, {source}, and only then shown to this one. "
            "An attacker who knows this model can do better."
        )
    return "White box", "The attacks used the gradients or outputs of the evaluated model itself."


def accuracy_notes(record: Record) -> list[str]:
    """What one has to know to read the accuracy table."""
    suite, top_k, attacks = record.get("suite"), record.get("top_k"), record["attacks"]
    notes = list(record.get("notes") or [])
    if suite:
        notes += [CASCADE, *suite["notes"]]
    elif attacks:
        notes.append(f"The worst case is taken per example, over {formatting.count(len(attacks), 'attack')}.")
    if record.get("epsilons"):
        notes.append(
            f"There is {epsilons(record['epsilons'])}. It replaces the epsilon of the settings below; step sizes and "
            "start radii among them are in proportion to it."
        )
    if top_k:
        notes.append(f"Top {top_k['k']}: the label is among the {top_k['k']} highest logits, under attack as well.")
    return [*notes, INTERVALS]


def target_notes(record: Record) -> list[str]:
    """What the table of targets means."""
    notes = [
        "Of the examples that the attack was run on, the share that it made the classifier take for its target, which "
        "is not the label. An example that is taken for a third class counts as broken above, and not here."
    ]
    aims = {record["details"][name].get("aim") for name in record.get("targeted_success") or {}}
    if aims - {"given"}:
        notes.append(
            "Attacks towards targets of their own choice leave an example once it is misclassified, whatever as: with "
            "further restarts more might reach a target."
        )
    return notes


def checks_summary(record: Record) -> str:
    """How many gradient masking checks ran and how many are suspicious."""
    checks = record["checks"]
    ran = [check for check in checks if check["value"] is not None or check["suspicious"]]
    if not checks:
        return NO_CHECKS
    if not ran:
        total = formatting.count(len(checks), "gradient masking check")
        return f"None of {total} could be run: treat robust accuracy as an upper bound."
    suspicious = sum(bool(check["suspicious"]) for check in ran)
    total = formatting.count(len(ran), "gradient masking check")
    skipped = f" {len(checks) - len(ran)} more could not be run." if len(checks) > len(ran) else ""
    if suspicious:
        return f"{suspicious} of {total} suspicious: the true robustness is probably lower than measured here.{skipped}"
    return f"{total}, none suspicious. This makes a fooled attack less likely; it does not exclude one.{skipped}"


def training_attacks(record: Record) -> str:
    """The attacks behind the attacked curves of training, from the training configuration."""
    config = record["training"]["config"] or {}
    named = [
        f"{phase} {formatting.settings_summary(config[key])}"
        for key, phase in (("attack", "in training"), ("validation_attack", "in validation"))
        if config.get(key)
    ]
    if not named:
        return "Attacked values were measured by the attack of the training run, which its configuration does not name."
    return f"Attacked values were measured by the attacks of the training run: {'; '.join(named)}."


def _worth(record: Record) -> str:
    if any(check["suspicious"] for check in record["checks"]):
        return "Gradient masking is suspected: the true robustness is probably lower."
    return "An upper bound on the true robustness."

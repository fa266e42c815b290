"""The sentences of a report. A sentence with a robust accuracy always names the attacks that measured it."""

from collections.abc import Sequence

import numpy as np

from keras_robust.reports import formatting
from keras_robust.reports.record import Record

NO_CHECKS = "No gradient masking checks were run: treat robust accuracy as an upper bound."
NO_HISTORY = "No training history is recorded for this model."
INTERVALS = (
    "Intervals are 95 % Wilson score intervals. They show how precise an accuracy is with this number of examples. "
    "They do not show how much lower a stronger attack would push it."
)
CASCADE = (
    "The attacks of the suite ran one after another. Each attack ran only on the examples that no attack before it had "
    "broken. A row counts the examples that withstood its attack and all attacks before it."
)


def epsilons(values: Sequence[float] | np.ndarray) -> str:
    """Returns the range of the epsilons, in words, of an evaluation with one epsilon per example."""
    return f"one epsilon per example, from {min(values):.4g} to {max(values):.4g}"


def title(record: Record) -> str:
    """Returns the heading: model and data set."""
    return f"Robustness of {record['model']['source']} on {record['dataset']}"


def verdict(record: Record) -> str:
    """Returns one line with clean accuracy, robust accuracy, the attacks that measured it, and how far to trust it."""
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
    """Returns the names of what measured the robust accuracy: the suite, or else every attack."""
    suite = record.get("suite")
    return [suite["name"]] if suite and record["attacks"] else list(record["attacks"])


def access(record: Record) -> tuple[str, str]:
    """Returns "Black box" or "White box", and a sentence that says what the attacker knew."""
    source = record["black_box_source"]
    if source:
        return "Black box", (
            f"The attacked images were crafted on another model, {source}, and then shown to this model. "
            "An attacker who knows this model can break more images."
        )
    return "White box", "The attacks used the gradients or outputs of the evaluated model itself."


def accuracy_notes(record: Record) -> list[str]:
    """Returns the sentences that explain the accuracy table, without the notes of the record."""
    suite, top_k, attacks = record.get("suite"), record.get("top_k"), record["attacks"]
    notes: list[str] = []
    if suite:
        notes += [CASCADE, *suite["notes"]]
    elif attacks:
        notes.append(f"The worst case is taken per example, over {formatting.count(len(attacks), 'attack')}.")
    if record.get("epsilons"):
        notes.append(
            f"There is {epsilons(record['epsilons'])}. It replaces the epsilon in the settings below. The step "
            "sizes and start radii in the settings are scaled in proportion."
        )
    if top_k:
        notes.append(f"Top {top_k['k']}: the label is among the {top_k['k']} highest logits, also for attacked images.")
    return [*notes, INTERVALS]


def target_notes(record: Record) -> list[str]:
    """Returns the sentences that explain the table of targets."""
    notes = [
        "An example reached its target if the attack made the classifier predict the target class, which is never the "
        "label. The percentages are shares of the examples on which the attack ran. An example that is predicted as a "
        "third class counts as broken in the accuracy table, but not here."
    ]
    aims = {record["details"][name].get("aim") for name in record.get("targeted_success") or {}}
    if aims - {"given"}:
        notes.append(
            "An attack that chooses its targets itself stops attacking an example as soon as the example is "
            "misclassified, as any class. With further restarts, more examples might reach a target."
        )
    return notes


def checks_summary(record: Record) -> str:
    """Returns how many gradient masking checks ran, and how many are suspicious."""
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
    return (
        f"{total}, none suspicious. This makes it less likely that gradient masking fooled the attacks, but does not "
        f"exclude it.{skipped}"
    )


def training_attacks(record: Record) -> str:
    """Returns a sentence that names the attacks that measured the attacked training curves."""
    config = record["training"]["config"] or {}
    named = [
        f"{phase} {formatting.settings_summary(config[key])}"
        for key, phase in (("attack", "in training"), ("validation_attack", "in validation"))
        if config.get(key)
    ]
    if not named:
        return (
            "The attack of the training run measured the values on attacked images. The configuration of the run does "
            "not name this attack."
        )
    return f"The attacks of the training run measured the values on attacked images: {'; '.join(named)}."


def _worth(record: Record) -> str:
    if any(check["suspicious"] for check in record["checks"]):
        return "Gradient masking is suspected: the true robustness is probably lower."
    return "An upper bound on the true robustness."

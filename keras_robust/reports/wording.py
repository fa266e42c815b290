"""The sentences of a report. None gives a robust accuracy without the attack that measured it."""

from keras_robust.reports import formatting
from keras_robust.reports.record import Record

NO_CHECKS = "No gradient masking checks were run: treat robust accuracy as an upper bound."
NO_HISTORY = "No training history is recorded for this model."
INTERVALS = (
    "Intervals are 95 % Wilson score intervals: they say how far the number of examples limits the precision, "
    "not how much a stronger attack would find."
)


def title(record: Record) -> str:
    """The heading: model and data set."""
    return f"Robustness of {record['model']['source']} on {record['dataset']}"


def verdict(record: Record) -> str:
    """One line: clean accuracy, robust accuracy, the attacks that measured it and what it is worth."""
    clean = f"{formatting.percent(record['clean_accuracy'])} correct on clean images"
    examples = formatting.count(record["examples"], "example")
    names = list(record["attacks"])
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


def access(record: Record) -> tuple[str, str]:
    """What the attacker knew: a short name and a sentence."""
    source = record["black_box_source"]
    if source:
        return "Black box", (
            f"The attacked images were crafted on another model, {source}, and only then shown to this one. "
            "An attacker who knows this model can do better."
        )
    return "White box", "The attacks used the gradients or outputs of the evaluated model itself."


def checks_summary(record: Record) -> str:
    """How many gradient masking checks ran and how many are suspicious."""
    checks = record["checks"]
    if not checks:
        return NO_CHECKS
    suspicious = sum(bool(check["suspicious"]) for check in checks)
    total = formatting.count(len(checks), "gradient masking check")
    if suspicious:
        return f"{suspicious} of {total} suspicious: the true robustness is probably lower than measured here."
    return f"{total}, none suspicious. This makes a fooled attack less likely; it does not exclude one."


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

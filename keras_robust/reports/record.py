"""What a report needs to find in an evaluation record and in its sample images."""

from keras_robust.reports.analysis_record import LARGE_EPSILON, check_analysis
from keras_robust.reports.fields import Record, Samples, require
from keras_robust.reports.results import check_results

SCHEMA_VERSION = 1
# `threat_model` is missing on purpose: a record whose attacks differ in it has none. So are the fields that a record
# need not have: suite, top_k, analyses, robust_accuracy_interval, batch_size, compile_attack, notes, random, threads,
# devices.
FIELDS = (
    "schema_version",
    "clean_accuracy",
    "robust_accuracy",
    "attacks",
    "checks",
    "examples",
    "details",
    "labels",
    "clean_predictions",
    "model",
    "black_box_source",
    "dataset",
    "seed",
    "seconds",
    "versions",
    "commit",
    "command",
    "created",
    "training",
)
DETAIL_FIELDS = ("settings", "seconds", "robust")
CHECK_FIELDS = ("name", "value", "threshold", "suspicious", "reason", "source")
SUITE_FIELDS = ("name", "settings", "notes")
SAMPLE_FIELDS = ("images", "attacked", "labels", "clean_predictions", "attacked_predictions", "attack_name")
PAIR_FIELDS = ("images", "attacked", "labels", "attacked_predictions")


def check_record(record: Record) -> None:
    """Checks that the record has every field and that its accuracies follow from its per-example results.

    Raises:
        ValueError: a field is missing, a list does not have one entry per example, an analysis is not complete, or an
            accuracy differs from the per-example results by more than a report would show.
    """
    require(record, FIELDS, "the record")
    if record["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"Expected schema_version={SCHEMA_VERSION}. Received: {record['schema_version']!r}")
    if not record["examples"] > 0:
        raise ValueError(f"A report needs at least one example. Received: examples={record['examples']!r}")
    require(record["model"], ("source",), "record['model']")
    require(record["details"], tuple(record["attacks"]), "record['details']")
    for name in record["attacks"]:
        require(record["details"][name], DETAIL_FIELDS, f"record['details'][{name!r}]")
    for position, check in enumerate(record["checks"]):
        require(check, CHECK_FIELDS, f"record['checks'][{position}]")
    if record["training"] is not None:
        require(record["training"], ("config", "history"), "record['training']")
    if record.get("suite"):
        require(record["suite"], SUITE_FIELDS, "record['suite']")
    check_results(record)
    for position, analysis in enumerate(record.get("analyses") or []):
        check_analysis(analysis, f"record['analyses'][{position}]")


def check_samples(record: Record, samples: Samples) -> None:
    """Checks that the sample images, those of the analyses too, and their predictions are complete.

    Raises:
        ValueError: a field is missing, or the arrays do not belong together.
    """
    _check_images(samples, "", SAMPLE_FIELDS)
    for analysis in record.get("analyses") or []:
        if analysis["kind"] == LARGE_EPSILON:
            _check_images(samples, f"{analysis['arrays']}/", PAIR_FIELDS)


def _check_images(samples: Samples, prefix: str, fields: tuple[str, ...]) -> None:
    """Checks the arrays whose names begin with `prefix`."""
    require(samples, tuple(prefix + field for field in fields), "samples")
    images, attacked = samples[f"{prefix}images"], samples[f"{prefix}attacked"]
    count = len(samples[f"{prefix}labels"])
    if images.shape != attacked.shape or len(images) != count:
        raise ValueError(
            f"Expected clean and attacked images of one shape, one per label. Received: images.shape={images.shape}, "
            f"attacked.shape={attacked.shape}, {count} labels"
        )
    if count and images.ndim < 2:
        raise ValueError(f"Expected images of shape (n, height, width, channels). Received: {images.shape}")
    for field in fields:
        if field.endswith("predictions") and len(samples[prefix + field]) != count:
            raise ValueError(
                f"Expected {count} {prefix}{field}, one per label. Received: {len(samples[prefix + field])}"
            )

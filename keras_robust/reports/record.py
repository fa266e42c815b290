"""The fields of an evaluation record that a report reads, and the checks that a record does not contradict itself.

`check_record` checks that every field is there, and that the accuracies follow from the results of each example.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Record = dict[str, Any]
Samples = dict[str, np.ndarray]
Analysis = Mapping[str, Any]
SCHEMA_VERSION = 1
# These fields are not required: threat_model (it is missing if the attacks have different threat models), suite, top_k,
# analyses, robust_accuracy_interval, batch_size, compile_attack, notes, random, threads, devices, epsilons and
# targeted_success.
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
TOP_K_FIELDS = ("k", "clean_accuracy", "robust_accuracy", "attacks")
SAMPLE_FIELDS = ("images", "attacked", "labels", "clean_predictions", "attacked_predictions", "attack_name")
PAIR_FIELDS = ("images", "attacked", "labels", "attacked_predictions")
ITERATION_CURVE, EPSILON_CURVE = "iteration_curve", "epsilon_curve"
TRANSFER_MATRIX, LOSS_SURFACE, LARGE_EPSILON = "transfer_matrix", "loss_surface", "large_epsilon_images"
NORMALIZATION = "normalization_statistics"

ANALYSIS_FIELDS = {
    ITERATION_CURVE: ("attack", "iterations", "accuracy", "flat", "verdict"),
    EPSILON_CURVE: ("attack", "norm", "epsilons", "accuracy", "verdict"),
    TRANSFER_MATRIX: ("sources", "targets", "attacks", "accuracy", "white_box", "verdicts"),
    LOSS_SURFACE: ("axes", "norm", "radius", "first", "second", "losses", "labels", "verdict"),
    LARGE_EPSILON: ("attack", "epsilon", "arrays"),
    NORMALIZATION: ("layer", "attack", "channels", "series", "verdict"),
}

TRANSFER_VERDICT_FIELDS = ("target", "attack", "source", "white_box", "transferred", "shattered", "reason")
# A report shows accuracies in percent with one decimal. A smaller difference cannot be seen.
SHOWN_PRECISION = 5e-4
# The 97.5 % quantile of the standard normal distribution. 95 % of the values lie between minus and plus this number.
NORMAL_QUANTILE = 1.959963984540054


def check_record(record: Record) -> None:
    """Checks that the record has every field and that its accuracies follow from its per-example results.

    Raises:
        ValueError: if a field is missing, a list does not have one entry per example, an analysis is incomplete, or an
            accuracy differs from the per-example results by more than `SHOWN_PRECISION`.
    """
    require(record, FIELDS, "the record")
    if record["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version must be {SCHEMA_VERSION}. Received: schema_version={record['schema_version']!r}"
        )
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
    """Checks that the sample images, the images of the analyses, and their predictions are complete.

    Raises:
        ValueError: if an array is missing, or lengths or shapes do not fit together.
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
            "Clean and attacked images must have the same shape, and there must be one label per image. "
            f"Received: images.shape={images.shape}, attacked.shape={attacked.shape}, {count} labels"
        )
    if count and images.ndim < 2:
        raise ValueError(
            f"Images must have at least two axes, such as (n, height, width, channels). Received: {images.shape}"
        )
    for field in fields:
        if field.endswith("predictions") and len(samples[prefix + field]) != count:
            raise ValueError(
                f"{prefix}{field} must have {count} values, one per label. Received: {len(samples[prefix + field])}"
            )


def clean_results(record: Record) -> np.ndarray:
    """Returns whether each example is classified correctly without an attack, (examples,) bool."""
    predictions = _per_example(record, record["clean_predictions"], "clean_predictions")
    return np.equal(_per_example(record, record["labels"], "labels"), predictions)


def attack_results(record: Record, name: str) -> np.ndarray:
    """Returns whether each example withstood the attack `name`, (examples,) bool.

    In a suite, it says whether the example withstood this attack and all attacks before it.
    """
    field = f"details[{name!r}]['robust']"
    return _per_example(record, record["details"][name]["robust"], field).astype(bool)


def worst_case_results(record: Record) -> np.ndarray:
    """Returns whether each example withstood every attack, (examples,) bool."""
    return np.all([attack_results(record, name) for name in record["attacks"]], axis=0)


def attack_ranks(record: Record, name: str) -> np.ndarray:
    """Returns how many classes were above the label at worst, (examples,) integers; 0 if the example withstood."""
    return _per_example(record, record["details"][name]["ranks"], f"details[{name!r}]['ranks']")


def _per_example(record: Record, values: list[Any], field: str) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (record["examples"],):
        raise ValueError(
            f"{field} must have {record['examples']} values, one per example. Received: shape {array.shape}"
        )
    return array


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a binomial proportion (Wilson, 1927; Newcombe, 1998, method 3).

    With n = trials, p = successes / n and the normal quantile z, the interval is
    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Returns:
        The lower and the upper end, both fractions in [0, 1].

    Raises:
        ValueError: if `trials` is not positive, or `successes` is not in [0, trials].
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(
            f"trials must be positive, and successes must be in [0, trials]. Received: {successes=}, {trials=}"
        )
    fraction = successes / trials
    z_squared = NORMAL_QUANTILE**2
    centre = fraction + z_squared / (2 * trials)
    spread = math.sqrt(fraction * (1 - fraction) / trials + z_squared / (4 * trials**2))
    scale = 1 + z_squared / trials
    low = (centre - NORMAL_QUANTILE * spread) / scale
    high = (centre + NORMAL_QUANTILE * spread) / scale
    # Rounding must not push an end that is exactly 0 or 1 out of [0, 1].
    return max(low, 0.0), min(high, 1.0)


def check_results(record: Record) -> None:
    """Checks that the numbers in a report follow from the per-example results.

    Raises:
        ValueError: if a list does not have one entry per example, an accuracy or its interval differs from the
            per-example results by more than `SHOWN_PRECISION`, ranks and results disagree, or an example of a suite is
            robust after an earlier attack broke it.
    """
    _check_mean(record["clean_accuracy"], clean_results(record), "clean_accuracy")
    for name, accuracy in record["attacks"].items():
        _check_mean(accuracy, attack_results(record, name), f"attacks[{name!r}]")
        _check_ranks(record, name)
    _check_targets(record)
    if record.get("suite"):
        _check_cascade(record)
    if record["attacks"]:
        worst = worst_case_results(record)
        _check_mean(record["robust_accuracy"], worst, "robust_accuracy")
        _check_interval(record.get("robust_accuracy_interval"), worst, "robust_accuracy_interval")
    if record.get("top_k"):
        _check_top_k(record)


def _check_ranks(record: Record, name: str) -> None:
    if "ranks" not in record["details"][name]:
        return
    differences = np.flatnonzero((attack_ranks(record, name) == 0) != attack_results(record, name))
    if differences.size:
        raise ValueError(
            f"Robust examples must have rank 0 in details[{name!r}], and all others a higher rank. "
            f"Received: {differences.size} that differ, the first at position {differences[0]}"
        )


def _check_targets(record: Record) -> None:
    for name, success in (record.get("targeted_success") or {}).items():
        require(record["details"][name], ("aim", "reached_target"), f"record['details'][{name!r}]")
        field = f"details[{name!r}]['reached_target']"
        reached = [
            value
            for value in _per_example(record, record["details"][name]["reached_target"], field)
            if value is not None
        ]
        if success is None and not reached:
            continue
        _check_mean(np.nan if success is None else success, np.array(reached, bool), f"targeted_success[{name!r}]")


def _check_cascade(record: Record) -> None:
    before = np.ones(record["examples"], bool)
    for name in record["attacks"]:
        results = attack_results(record, name)
        regained = np.flatnonzero(results & ~before)
        if regained.size:
            raise ValueError(
                "In a suite, an example must not be robust after an earlier attack broke it. "
                f"Received: details[{name!r}] with {regained.size} that are, the first at position {regained[0]}"
            )
        before = results


def _check_top_k(record: Record) -> None:
    top_k, attacks = record["top_k"], tuple(record["attacks"])
    require(top_k, TOP_K_FIELDS, "record['top_k']")
    require(top_k["attacks"], attacks, "record['top_k']['attacks']")
    for name in attacks:
        require(record["details"][name], ("ranks",), f"record['details'][{name!r}]")
    within = [attack_ranks(record, name) < top_k["k"] for name in attacks]
    for name, results in zip(attacks, within, strict=True):
        _check_mean(top_k["attacks"][name], results, f"top_k['attacks'][{name!r}]")
    if attacks:
        worst = np.all(within, axis=0)
        _check_mean(top_k["robust_accuracy"], worst, "top_k['robust_accuracy']")
        _check_interval(top_k.get("robust_accuracy_interval"), worst, "top_k['robust_accuracy_interval']")
    if not record["clean_accuracy"] - SHOWN_PRECISION <= top_k["clean_accuracy"] <= 1:
        raise ValueError(
            f"top_k['clean_accuracy'] must be from clean_accuracy={record['clean_accuracy']:.6g} to 1. "
            f"Received: {top_k['clean_accuracy']!r}"
        )


def _check_mean(accuracy: float, results: np.ndarray, field: str) -> None:
    if not abs(accuracy - results.mean()) <= SHOWN_PRECISION:
        raise ValueError(
            f"{field} must be {results.mean():.6g}, the mean of its per-example results. Received: {accuracy!r}"
        )


def _check_interval(interval: Any, results: np.ndarray, field: str) -> None:
    if interval is None:
        return
    expected = wilson_interval(int(results.sum()), results.size)
    if not np.allclose(fractions(interval, (2,), field), expected, rtol=0, atol=SHOWN_PRECISION):
        raise ValueError(
            f"{field} must be [{expected[0]:.6g}, {expected[1]:.6g}], the Wilson interval of the per-example results. "
            f"Received: {interval!r}"
        )


def check_analysis(analysis: Analysis, where: str) -> None:
    """Checks that an analysis has every field of its kind, and that the fields do not contradict each other.

    Args:
        analysis: an entry of the record's `analyses`.
        where: the name of the entry in error messages.

    Raises:
        ValueError: if the kind is unknown, a field is missing, or shapes, ranges or verdicts contradict each other.
    """
    require(analysis, ("kind", "seconds"), where)
    kind = analysis["kind"]
    if kind not in ANALYSIS_FIELDS:
        raise ValueError(f"The kind of {where} must be one of {tuple(ANALYSIS_FIELDS)}. Received: kind={kind!r}")
    require(analysis, ANALYSIS_FIELDS[kind], where)
    if kind == ITERATION_CURVE:
        _check_curve(analysis, "iterations", where)
        if not min(analysis["iterations"]) > 0:
            raise ValueError(f"The iterations of {where} must be positive. Received: {analysis['iterations']!r}")
    elif kind == EPSILON_CURVE:
        _check_curve(analysis, "epsilons", where)
    elif kind == TRANSFER_MATRIX:
        _check_transfer(analysis, where)
    elif kind == LOSS_SURFACE:
        _check_surface(analysis, where)
    elif kind == NORMALIZATION:
        _check_normalization(analysis, where)


def _check_curve(analysis: Analysis, field: str, where: str) -> None:
    """Checks a curve. If it has `broken_at` (per example, None for never), the accuracies must follow from it."""
    length = len(analysis[field])
    values = numbers(analysis[field], (length,), f"{where}[{field!r}]")
    if not length or not (np.diff(values) > 0).all():
        raise ValueError(
            f"The {field} of {where} must increase, and there must be at least one. Received: {analysis[field]!r}"
        )
    accuracy = fractions(analysis["accuracy"], (length,), f"{where}['accuracy']")
    if analysis.get("broken_at"):
        broken_at = [np.inf if value is None else value for value in analysis["broken_at"]]
        withstood = numbers(broken_at, (len(broken_at),), f"{where}['broken_at']") > values[:, None]
        _check_analysis_means(accuracy, withstood, f"{where}['accuracy']")


def _check_transfer(analysis: Analysis, where: str) -> None:
    sources, targets = analysis["sources"], analysis["targets"]
    shape = len(analysis["attacks"]), len(sources), len(targets)
    if not all(shape):
        raise ValueError(
            f"{where} must have attacks, sources and targets. Received: {shape[0]}, {shape[1]} and {shape[2]} of them"
        )
    accuracy = fractions(analysis["accuracy"], shape, f"{where}['accuracy']")
    if analysis.get("robust"):
        examples = len(analysis["robust"][0][0][0])
        _check_analysis_means(
            accuracy, numbers(analysis["robust"], (*shape, examples), f"{where}['robust']"), f"{where}['accuracy']"
        )
    white_box = numbers(analysis["white_box"], shape[1:], f"{where}['white_box']") != 0
    for position, verdict in enumerate(analysis["verdicts"]):
        here = f"{where}['verdicts'][{position}]"
        require(verdict, TRANSFER_VERDICT_FIELDS, here)
        for field, names in (("attack", analysis["attacks"]), ("source", sources), ("target", targets)):
            if verdict[field] not in names:
                raise ValueError(f"The {field} of {here} must be one of {names}. Received: {field}={verdict[field]!r}")
        matrix = accuracy[analysis["attacks"].index(verdict["attack"])]
        column = targets.index(verdict["target"])
        own = matrix[white_box[:, column], column]
        _check_among(verdict["white_box"], own, f"white-box accuracy in {here}")
        transferred = matrix[sources.index(verdict["source"]), column]
        _check_among(verdict["transferred"], transferred[None], f"transferred accuracy in {here}")


def _check_analysis_means(accuracy: np.ndarray, results: np.ndarray, field: str) -> None:
    """Checks that accuracies are the means of the per-example results along the last axis."""
    means = results.mean(axis=-1)
    if not (np.abs(accuracy - means) <= SHOWN_PRECISION).all():
        raise ValueError(
            f"{field} must be the means of the per-example results, {means.tolist()}. Received: {accuracy.tolist()}"
        )


def _check_among(value: float, cells: np.ndarray, field: str) -> None:
    if not (np.abs(cells - value) <= SHOWN_PRECISION).any():
        raise ValueError(f"The {field} must be as in the matrix: one of {cells.tolist()}. Received: {value!r}")


def _check_surface(analysis: Analysis, where: str) -> None:
    first, second = len(analysis["first"]), len(analysis["second"])
    for field, length in (("first", first), ("second", second)):
        offsets = numbers(analysis[field], (length,), f"{where}[{field!r}]")
        if length < 2 or not (np.diff(offsets) > 0).all():
            raise ValueError(
                f"{where}[{field!r}] must be at least two increasing offsets. Received: {field}={offsets.tolist()}"
            )
    if len(analysis["axes"]) != 2:
        raise ValueError(f"{where} must have two axes. Received: {analysis['axes']!r}")
    numbers(analysis["losses"], (len(analysis["labels"]), first, second), f"{where}['losses']")


def _check_normalization(analysis: Analysis, where: str) -> None:
    shape = (len(analysis["channels"]),)
    if not analysis["series"]:
        raise ValueError(f"{where} must have at least one series. Received: none")
    for position, series in enumerate(analysis["series"]):
        here = f"{where}['series'][{position}]"
        require(series, ("name", "mean", "variance"), here)
        numbers(series["mean"], shape, f"{here}['mean']")
        numbers(series["variance"], shape, f"{here}['variance']")


def require(mapping: Mapping[str, Any], fields: tuple[str, ...], where: str) -> None:
    """Checks that `mapping` has all `fields`. `where` is its name in the error message.

    Raises:
        ValueError: if a field is missing.
    """
    missing = [field for field in fields if field not in mapping]
    if missing:
        raise ValueError(f"Missing in {where}: {', '.join(map(repr, missing))}. Received: keys {sorted(mapping)}")


def numbers(values: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Returns nested numbers as a float64 array of this shape. None becomes NaN. `where` is their name in errors.

    Raises:
        ValueError: if they are not numbers, or have another shape.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must be numbers of shape {shape}. Received: {values!r}") from error
    if array.shape != shape:
        raise ValueError(f"{where} must be numbers of shape {shape}. Received: shape {array.shape}")
    return array


def fractions(values: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Returns nested fractions as a float64 array of this shape. `where` is their name in errors.

    Raises:
        ValueError: if a value is not a number in [0, 1], or they have another shape.
    """
    array = numbers(values, shape, where)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{where} must be fractions from 0 to 1. Received: {values!r}")
    return array

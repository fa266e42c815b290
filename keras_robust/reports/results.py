"""The per-example results of a record, and the check that its accuracies follow from them."""

from typing import Any

import numpy as np

from keras_robust.reports.fields import SHOWN_PRECISION, Record, fractions, require
from keras_robust.reports.wilson import wilson_interval

TOP_K_FIELDS = ("k", "clean_accuracy", "robust_accuracy", "attacks")


def clean_results(record: Record) -> np.ndarray:
    """Whether each example is classified correctly without an attack: (examples,) bool."""
    predictions = _per_example(record, record["clean_predictions"], "clean_predictions")
    return np.equal(_per_example(record, record["labels"], "labels"), predictions)


def attack_results(record: Record, name: str) -> np.ndarray:
    """Whether each example withstood the attack of that name: (examples,) bool.

    In a suite: that attack and all before it.
    """
    field = f"details[{name!r}]['robust']"
    return _per_example(record, record["details"][name]["robust"], field).astype(bool)


def worst_case_results(record: Record) -> np.ndarray:
    """Whether each example withstood every attack: (examples,) bool."""
    return np.all([attack_results(record, name) for name in record["attacks"]], axis=0)


def attack_ranks(record: Record, name: str) -> np.ndarray:
    """How many classes each example had above its label at worst: (examples,) integers, 0 where it withstood."""
    return _per_example(record, record["details"][name]["ranks"], f"details[{name!r}]['ranks']")


def check_results(record: Record) -> None:
    """Checks that no number is shown that the per-example results contradict.

    Raises:
        ValueError: a list does not have one entry per example, an accuracy or its interval differs from the per-example
            results by more than a report would show, ranks and results disagree, or a suite is not cumulative.
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
            f"Expected rank 0 where an example is robust and only there, in details[{name!r}]. "
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
                "Expected that in a suite no example is robust after an earlier attack broke it. "
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
            f"Expected top_k['clean_accuracy'] from clean_accuracy={record['clean_accuracy']:.6g} to 1. "
            f"Received: {top_k['clean_accuracy']!r}"
        )


def _check_mean(accuracy: float, results: np.ndarray, field: str) -> None:
    if not abs(accuracy - results.mean()) <= SHOWN_PRECISION:
        raise ValueError(
            f"Expected {field}={results.mean():.6g}, the mean of its per-example results. Received: {accuracy!r}"
        )


def _check_interval(interval: Any, results: np.ndarray, field: str) -> None:
    if interval is None:
        return
    expected = wilson_interval(int(results.sum()), results.size)
    if not np.allclose(fractions(interval, (2,), field), expected, rtol=0, atol=SHOWN_PRECISION):
        raise ValueError(
            f"Expected {field}=[{expected[0]:.6g}, {expected[1]:.6g}], the Wilson interval of the per-example results. "
            f"Received: {interval!r}"
        )


def _per_example(record: Record, values: list[Any], field: str) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (record["examples"],):
        raise ValueError(f"Expected {record['examples']} values in {field}, one per example. Received: {array.shape}")
    return array

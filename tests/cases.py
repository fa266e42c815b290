"""Tests of many alike cases run one case of each kind; the others wait for the slow tests."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def rest_slow(cases: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """Returns the cases for `pytest.mark.parametrize`, those that are not in `kept` marked `slow`."""
    cases = list(cases)
    assert all(case in cases for case in kept), f"{kept} must be among {cases}"
    return [case if case in kept else as_slow(case) for case in cases]


def as_slow(case: Any) -> Any:
    """Returns a case marked `slow`: of one argument, or a tuple of several."""
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)

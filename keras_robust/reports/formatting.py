"""Numbers and settings as short text, the same in Markdown and HTML."""

import json
from collections.abc import Mapping
from typing import Any

NOTHING = "-"
# Verdicts of a check.
SUSPICIOUS, NOT_SUSPICIOUS, NOT_RUN = "⚠ Suspicious", "Not suspicious", "Not run"
# Keras writes an object as these keys around its class name and its configuration.
_CLASS, _CONFIG = "class_name", "config"


def percent(fraction: float) -> str:
    """A fraction in percent with one decimal: 0.8974 becomes "89.7 %"."""
    return f"{100 * fraction:.1f} %"


def percent_range(low: float, high: float) -> str:
    """Two fractions as a range in percent: "88.3 to 91.0 %"."""
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def seconds(value: float | None) -> str:
    """A duration with one decimal."""
    return NOTHING if value is None else f"{value:,.1f} s"


def count(number: int, noun: str) -> str:
    """A number and its noun: "1 example", "2,000 examples"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def sentence(text: str) -> str:
    """Text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def scalar(value: Any) -> str:
    """A number with at most four significant digits, everything else as it is."""
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def pretty_json(value: Any) -> str:
    """Indented JSON in the order of the keys; what JSON does not know is written as its string."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def settings_summary(settings: Any) -> str:
    """Nested settings in one line, without those that are None.

    A serialised Keras object `{"class_name": "Linf", "config": {"epsilon": 0.3}}` becomes `Linf(epsilon=0.3)`.
    """
    if isinstance(settings, Mapping):
        if _CLASS in settings and isinstance(settings.get(_CONFIG), Mapping):
            return f"{settings[_CLASS]}({settings_summary(settings[_CONFIG])})"
        return ", ".join(f"{key}={_nested(value)}" for key, value in settings.items() if value is not None)
    if isinstance(settings, list | tuple):
        return f"[{', '.join(map(_nested, settings))}]"
    return f"{settings:.6g}" if isinstance(settings, float) else str(settings)


def _nested(value: Any) -> str:
    text = settings_summary(value)
    is_plain_mapping = isinstance(value, Mapping) and _CLASS not in value
    return f"({text})" if is_plain_mapping else text

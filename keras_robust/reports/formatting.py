"""Numbers and settings as short text, the same for Markdown and HTML."""

import json
from collections.abc import Mapping
from typing import Any

NOTHING = "-"
# Verdicts of a check.
SUSPICIOUS, NOT_SUSPICIOUS, NOT_RUN = "⚠ Suspicious", "Not suspicious", "Not run"
# Keys under which Keras serialises the class and the configuration of an object.
_CLASS, _CONFIG = "class_name", "config"


def percent(fraction: float) -> str:
    """Returns a fraction in percent with one decimal: "89.7 %" for 0.8974."""
    return f"{100 * fraction:.1f} %"


def percent_range(low: float, high: float) -> str:
    """Returns two fractions as a range in percent, such as "88.3 to 91.0 %"."""
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def seconds(value: float | None) -> str:
    """Returns a duration with one decimal, or "-" for None."""
    return NOTHING if value is None else f"{value:,.1f} s"


def count(number: int, noun: str) -> str:
    """Returns a number and its noun, such as "1 example" or "2,000 examples"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def sentence(text: str) -> str:
    """Returns the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def scalar(value: Any) -> str:
    """Returns a float with at most four significant digits, "-" for None, and the string of anything else."""
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def pretty_json(value: Any) -> str:
    """Returns indented JSON in the order of the keys. Values that JSON does not support become their strings."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def settings_summary(settings: Any) -> str:
    """Returns nested settings in one line, without the settings that are None.

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

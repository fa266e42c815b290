"""A plan as a table for people."""

from collections.abc import Mapping
from typing import Any

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def scaled(value: float, unit: str) -> str:
    """Returns a number with three digits and a prefix, such as "46.4 TFLOP"."""
    factor, prefix = next(((factor, prefix) for factor, prefix in PREFIXES if value >= factor), (1, ""))
    return f"{value / factor:.3g} {prefix}{unit}"


def to_text(plan: Mapping[str, Any]) -> str:
    """Returns the table of a plan's data: see `Plan.to_dict`."""
    rows = [
        ("run", f"{plan['method']} of {plan['classifier']} on {plan['devices']}"),
        *([("attack", plan["attack"])] if plan["attack"] else []),
        ("parameters", f"{plan['parameters']:,} that are trained"),
        ("batch", f"{plan['batch_size']:,} images, {plan['memory']['batch_size']:,} per device"),
        ("", ""),
        *_step(plan),
        ("", ""),
        *_memory(plan["memory"]),
        ("", ""),
        *_time(plan),
        ("assumed", _assumption(plan["utilization"])),
        ("left out", "reading data, compiling, checkpoints, waiting for other devices"),
    ]
    return "\n".join(f"{name:<16}{text}".rstrip() for name, text in rows)


def _step(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    def row(work: str, flops: str, traffic: str, seconds: str) -> str:
        return f"{work:<52}{flops:>12}{traffic:>12}{seconds:>12}"

    rows = [("on each device", row("", "operations", "memory", "seconds"))]
    for part in plan["parts"]:
        flops = scaled(part["flops"], "FLOP") if part["flops"] else ""
        traffic = scaled(part["traffic"], "B")
        rows.append((f"  {part['name']}", row(part["work"], flops, traffic, f"{part['seconds']:.4g}")))
    return [*rows, ("  a step", row("", "", "", f"{plan['step_seconds']:.4g}"))]


def _memory(memory: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = ("weights", "gradients", "optimizer", "method", "activations")
    parts = ", ".join(f"{name} {scaled(memory[name], 'B')}" for name in names if memory[name])
    fits = "" if memory["batch_size"] <= memory["largest_batch"] else ": THE BATCH DOES NOT FIT"
    return [
        ("memory", f"{scaled(memory['total'], 'B')} of {scaled(memory['available'], 'B')} on each device: {parts}"),
        ("largest batch", f"{memory['largest_batch']:,} images per device{fits}"),
    ]


def _time(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    epochs, steps = plan["epochs"], plan["steps_per_epoch"]
    validation = f"{plan['validation_steps']:,} of {plan['validation_step_seconds']:.4g} s after each epoch"
    rows = [
        ("steps", f"{epochs * steps:,} in {epochs} epochs of {steps:,}"),
        ("validation", validation),
        ("time", f"{plan['hours']:.3g} hours, {plan['device_hours']:,.5g} device hours"),
    ]
    if plan["price"] is not None:
        rows.append(("price", f"{plan['price']:,.2f} at {plan['price_per_device_hour']:g} per device hour"))
    return rows


def _assumption(utilization: float | None) -> str:
    if utilization is None:
        return "what was measured on this machine now"
    return f"{utilization:g} of the published peaks of arithmetic and memory; an all-reduce that overlaps with nothing"

"""Checks of what users pass to several measurements. Each raises a `ValueError` that names what was received."""

from typing import Any

from keras_robust.attacks import Attack


def check_attacks(attacks: Any) -> dict[str, Attack]:
    """Returns attacks by name, from one attack or a sequence of them.

    Raises:
        ValueError: if there are none, one is no attack or listed twice, or their pixel ranges differ.
    """
    attacks = [attacks] if isinstance(attacks, Attack) else attacks
    if (
        not isinstance(attacks, list | tuple)
        or not attacks
        or not all(isinstance(attack, Attack) for attack in attacks)
    ):
        raise ValueError(
            f"attacks is an Attack, a list of them, or, for evaluate, a Suite. Received: attacks={attacks!r}"
        )
    names = [attack.name for attack in attacks]
    if len(set(names)) != len(names):
        raise ValueError(f"Each attack is listed once. Received: {names}")
    bounds = {attack.threat_model.bounds for attack in attacks}
    if len(bounds) > 1:
        raise ValueError(f"All attacks have one pixel range. Received: bounds {sorted(bounds)}")
    return dict(zip(names, attacks, strict=True))


def check_attack(attack: Any, kind: type[Attack] = Attack) -> None:
    """Raises `ValueError` unless `attack` is of a kind of attack."""
    if not isinstance(attack, kind):
        raise ValueError(
            f"attack is {kind.__name__}, such as PGD(Linf(0.3)). "
            f"Received: attack={attack!r} of type {type(attack).__name__}"
        )

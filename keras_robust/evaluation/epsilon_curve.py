"""Accuracy against the size of the perturbation: an attack that sees the gradients must reach 0 in the end.

curve = kr.evaluation.epsilon_curve(model, test, PGD(Linf(0.3), steps=100), (0.1, 0.2, 0.3, 0.5, math.inf))
print(curve["verdict"])
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_robust.attacks import Attack
from keras_robust.evaluation.arguments import check_attack, check_fits
from keras_robust.evaluation.gradients import check_gradients
from keras_robust.evaluation.runner import AttackRun, check_restarts
from keras_robust.evaluation.setting import first_failures, make_setting, of_random
from keras_robust.reports.formatting import percent


def epsilon_curve(
    model: Any,
    dataset: Any,
    attack: Attack,
    epsilons: Sequence[float],
    *,
    batch_size: int = 128,
    seed: int = 0,
    verbose: bool = True,
    compile_attack: bool | str = "auto",
) -> dict[str, Any]:
    """Measures the accuracy of a classifier under one attack at rising epsilons (Athalye et al., 2018, section 3.1).

    An example that is broken at one epsilon is broken at all larger ones, whose balls hold the same point: it is not
    attacked again, and the accuracy never rises. A classifier that is random at inference is attacked anew at each
    epsilon, and judged once.

    Where the attack has a `step_size` or a `start_radius` that is not None it grows in proportion to epsilon (and PGD
    scales a step size of None itself), so that the attack is the same but for the size of its ball. It is compiled
    once, with epsilon as an argument.

    Args:
        model: see `evaluate`.
        dataset: see `evaluate`.
        attack: any attack; its own epsilon only says what its step size is in proportion to.
        epsilons: increasing numbers, in the units of the images; 0 need not be among them. Where the last is `math.inf`
            it stands for the smallest that allows every image of the pixel range (1 for Linf, and the square root of
            the number of pixels and channels for L2), and larger ones are left out.
        batch_size: examples attacked at a time, a multiple of the number of replicas.
        seed: of the attack's draws, in [0, 2**31): the same at every epsilon.
        verbose: show progress bars.
        compile_attack: see `evaluate`.

    Returns:
        Plain Python values: `kind` ("epsilon_curve"), `attack` (its name as given), `norm`, `epsilons` (from 0 on),
        `accuracy` (a fraction for each of them, the first unattacked), `broken_at` (per example the epsilon at which it
        was broken, 0 where it is wrong unattacked, None where it withstood all; of a random classifier None),
        `verdict` (a sentence) and `seconds`.

    Raises:
        ValueError: if an argument is not what it must be; the message names what was received.
    """
    begin = time.perf_counter()
    check_attack(attack)
    given = _check_epsilons(attack, epsilons)
    setting = make_setting(
        model,
        dataset,
        attack.threat_model.bounds,
        batch_size=batch_size,
        seed=seed,
        verbose=verbose,
        compile_attack=compile_attack,
    )
    check_fits([attack], setting)
    reach = attack.threat_model.reach(setting.images[0].size)
    larger = _up_to(reach, given)
    for epsilon in larger:
        dataclasses.replace(attack.threat_model, epsilon=epsilon)
    check_restarts(attack, setting)
    check_gradients({attack.name: attack.resized(larger[0])}, setting)
    ranks, run = [setting.clean_ranks], AttackRun(attack, setting)
    for epsilon in larger:
        ranks.append(run.at(epsilon).run(setting.first_ranks if setting.is_random else ranks[-1]).ranks)
    tried, withstood = [0.0, *larger], np.equal(ranks, 0)
    accuracy = withstood.mean(axis=1).tolist()
    return {
        "kind": "epsilon_curve",
        "attack": attack.name,
        "norm": attack.threat_model.norm,
        "epsilons": tried,
        "accuracy": accuracy,
        "broken_at": None if setting.is_random else first_failures(withstood, tried),
        "verdict": _judge(tried, accuracy, reach) + of_random(setting),
        "seconds": time.perf_counter() - begin,
    }


def _check_epsilons(attack: Attack, epsilons: Any) -> list[float]:
    """Returns the epsilons above 0.

    Raises:
        ValueError: if they do not rise to one above 0, or the attack has steps in proportion to an epsilon of 0.
    """
    given = list(epsilons) if isinstance(epsilons, list | tuple) else []
    numbers = all(isinstance(epsilon, int | float) and not isinstance(epsilon, bool) for epsilon in given)
    if not given or not numbers or not given[-1] > 0 or not given[0] >= 0 or given != sorted(set(given)):
        raise ValueError(
            f"epsilons are increasing numbers, of which the last is above 0. Received: epsilons={epsilons!r}"
        )
    attack.resized(float(given[-1]))
    return [float(epsilon) for epsilon in given if epsilon > 0]


def _up_to(reach: float, epsilons: list[float]) -> list[float]:
    """Returns the epsilons with `reach` in place of a last one of infinity."""
    return epsilons if epsilons[-1] < math.inf else [*(epsilon for epsilon in epsilons if epsilon < reach), reach]


def _judge(epsilons: list[float], accuracy: list[float], reach: float) -> str:
    if accuracy[-1] == 0:
        return f"The attack reaches 0 % at epsilon {epsilons[accuracy.index(0)]:.4g}."
    left = f"{percent(accuracy[-1])} withstand the largest epsilon, {epsilons[-1]:.4g}"
    if epsilons[-1] * (1 + 1e-6) >= reach:
        return (
            f"{left}, where every image of the pixel range is allowed and none can: gradients are masked, or the "
            "attack is too weak to follow them."
        )
    return f"The attack does not reach 0 %: {left}, which does not allow every image of the pixel range."

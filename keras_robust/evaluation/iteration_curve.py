"""Accuracy against the number of an attack's iterations: whether a robust accuracy has been attacked to its end.

curve = kr.evaluation.iteration_curve(model, test, PGD(Linf(16 / 255), step_size=1 / 255))
print(curve["verdict"])
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_robust.attacks import PGD
from keras_robust.attacks.attack import State
from keras_robust.core import seeds
from keras_robust.core.objectives import Goal
from keras_robust.core.seeds import Tensor
from keras_robust.evaluation.arguments import check_attack, check_fits
from keras_robust.evaluation.execution import by_batch, compile_batch_function, progress_bar
from keras_robust.evaluation.gradients import check_gradients
from keras_robust.evaluation.ranks import rank_labels
from keras_robust.evaluation.runner import CHUNK_BATCHES, check_inside
from keras_robust.evaluation.setting import Setting, first_failures, make_setting, of_random
from keras_robust.reports.formatting import percent

ITERATIONS = (10, 20, 50, 100, 200, 500, 1000, 2000)

FLAT = 0.005
"""A curve is flat where doubling the iterations costs at most so much accuracy. The curves that Xie & Yuille (2020,
figures 2 and 3, table 7) call asymptotic lose 0.4 to 0.6 points from 500 to 2000 iterations, the others 4.3 and 5.7."""


def iteration_curve(
    model: Any,
    dataset: Any,
    attack: PGD,
    iterations: Sequence[int] = ITERATIONS,
    *,
    batch_size: int = 128,
    seed: int = 0,
    verbose: bool = True,
    compile_attack: bool | str = "auto",
) -> dict[str, Any]:
    """Measures the accuracy of a classifier under PGD of more and more iterations (Xie & Yuille, 2020, figure 2).

    They run the attack anew for each number. Here one run from one start passes through all of them, which costs only
    the largest. An example counts as broken from the first listed number at which its point is misclassified, and is
    left alone then: the accuracy is the worst case per example over the numbers so far, and never rises. (Points
    between the listed numbers are not looked at.) A classifier that is random at inference is judged anew at each
    number, and no example leaves.

    The step size is the same at every step, as theirs (1/255 at epsilon 16/255): that of `attack`, where None is its
    2.5 epsilon / steps. Otherwise `steps` plays no part: the numbers replace it.

    Args:
        model: see `evaluate`.
        dataset: see `evaluate`.
        attack: PGD with one restart.
        iterations: increasing integers, at least 1; the last is at least twice the first.
        batch_size: examples attacked at a time, a multiple of the number of replicas.
        seed: of the attack's draws, in [0, 2**31).
        verbose: show a progress bar.
        compile_attack: see `evaluate`.

    Returns:
        Plain Python values: `kind` ("iteration_curve"), `attack` (its name with the largest number), `iterations`,
        `accuracy` (a fraction for each of them), `broken_at` (per example the number at which it was found broken, 0
        where it is wrong unattacked, None where it withstood all; of a random classifier None), `flat` (whether at most
        0.5 points, or one example, were lost since the largest listed number that is at most half the last), `verdict`
        (a sentence) and `seconds`.

    Raises:
        ValueError: if an argument is not what it must be; the message names what was received.
    """
    begin = time.perf_counter()
    check_attack(attack, PGD)
    if attack.restarts > 1:
        raise ValueError(f"A curve over iterations follows one run. Received: restarts={attack.restarts}")
    counts = _check_iterations(iterations)
    followed = dataclasses.replace(attack, steps=counts[-1], step_size=attack.resolved_step_size)
    setting = make_setting(
        model,
        dataset,
        attack.threat_model.bounds,
        batch_size=batch_size,
        seed=seed,
        verbose=verbose,
        compile_attack=compile_attack,
    )
    check_fits([followed], setting)
    check_gradients({followed.name: followed}, setting)
    withstood = _Run(followed, setting, counts).withstood()
    accuracy = withstood.mean(axis=1).tolist()
    flat, verdict = _judge(counts, accuracy, len(setting.images))
    return {
        "kind": "iteration_curve",
        "attack": followed.name,
        "iterations": counts,
        "accuracy": accuracy,
        "broken_at": None
        if setting.is_random
        else first_failures(np.stack([setting.clean_ranks == 0, *withstood]), [0, *counts]),
        "flat": flat,
        "verdict": verdict + of_random(setting),
        "seconds": time.perf_counter() - begin,
    }


def _check_iterations(iterations: Any) -> list[int]:
    counts = list(iterations) if isinstance(iterations, list | tuple) else []
    integers = all(isinstance(count, int) and not isinstance(count, bool) for count in counts)
    if not counts or not integers or counts[0] < 1 or counts != sorted(set(counts)):
        raise ValueError(f"iterations are increasing integers of at least 1. Received: iterations={iterations!r}")
    if counts[-1] < 2 * counts[0]:
        raise ValueError(
            "Whether a curve is flat shows when iterations double: the last of them is at least twice the first. "
            f"Received: iterations={iterations!r}"
        )
    return counts


def _judge(counts: list[int], accuracy: list[float], examples: int) -> tuple[bool, str]:
    """Returns whether the curve is flat at its end, and that in words."""
    earlier = max(index for index, count in enumerate(counts) if 2 * count <= counts[-1])
    few, many = accuracy[earlier], accuracy[-1]
    flat = few - many <= max(FLAT, 1 / examples) + 1e-9  # accuracies are rounded floats
    numbers = f"{percent(few)} withstand {counts[earlier]} iterations, {percent(many)} withstand {counts[-1]}"
    if flat:
        return True, f"The curve is flat: {numbers}."
    return False, f"The curve still falls, so more iterations may find more: {numbers}."


class _Run:
    """One run of PGD with a look at each of `counts`, in chunks whose broken examples leave."""

    def __init__(self, attack: PGD, setting: Setting, counts: list[int]) -> None:
        batch_size = setting.batch_size_for(int((setting.first_ranks == 0).sum()))
        self._attack, self._setting, self._counts = attack, dataclasses.replace(setting, batch_size=batch_size), counts
        source_fn, target_fn = setting.source.model_fn_for(attack.compute_dtype), setting.target.model_fn_for(None)

        def start(batch: tuple[Tensor, Tensor], seed: Tensor) -> State:
            images, labels = batch
            goal = attack.goal(source_fn, images, labels, seeds.fold(seed, 0))
            known = {name: value for name, value in goal._asdict().items() if value is not None}
            return {**known, "images": images, "points": attack.start(images, seeds.fold(seed, 1))}

        def advance(state: State, steps: Tensor, seed: Tensor) -> State:
            del seed
            goal = Goal(*(state.get(name) for name in Goal._fields))
            return {**state, "points": attack.ascend(source_fn, state["images"], state["points"], goal, steps)}

        def is_wrong(batch: tuple[Tensor, Tensor], seed: Tensor) -> Tensor:
            del seed
            points, labels = batch
            return rank_labels(target_fn(points), labels) > 0

        self._start, self._advance, self._is_wrong = (
            compile_batch_function(function, setting.strategy, setting.compile_attack)
            for function in (start, advance, is_wrong)
        )

    def withstood(self) -> np.ndarray:
        """Returns which examples are right at each count and, of a deterministic target, before: (counts, examples)."""
        setting, last = self._setting, self._counts[-1]
        result = np.zeros((len(self._counts), len(setting.images)), bool)
        candidates = np.flatnonzero(setting.first_ranks == 0)
        bar = progress_bar("iterations", len(candidates) * last, "steps", setting.verbose)
        size = CHUNK_BATCHES * setting.batch_size
        for number, begin in enumerate(range(0, len(candidates), size)):
            chunk = candidates[begin : begin + size]
            looks = self._looks(chunk, seeds.fold(seeds.as_seed(setting.seed), number))
            for look, (count, left, right) in enumerate(looks):
                result[look, right] = True
                bar.update(begin * last + len(left) * count + (len(chunk) - len(left)) * last - bar.n)
        bar.close()
        return result

    def _looks(self, left: np.ndarray, seed: Tensor) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields each count, until all have left, which examples go on, and which of those so far are right."""
        setting = self._setting
        state = self._batches(self._start, (setting.images[left], setting.labels[left]), seed)
        for before, count in itertools.pairwise([0, *self._counts]):
            state = self._batches(self._advance, state, count - before, seed)
            check_inside(self._attack, state["points"], state["images"])
            wrong = self._batches(self._is_wrong, (state["points"], setting.sparse_labels[left]), seed)
            right = left[~wrong]
            if not setting.is_random:
                left, state = right, {name: values[~wrong] for name, values in state.items()}
            yield count, left, right
            if not len(left):
                return

    def _batches(self, function: Any, values: Any, *scalars_and_seed: Any) -> Any:
        *scalars, seed = scalars_and_seed
        return by_batch(
            lambda batch, index: function(batch, *scalars, seeds.fold(seed, index)), values, self._setting.batch_size
        )

"""Curves of accuracy over the epsilon of an attack, or over the number of its iterations.

As epsilon grows, the accuracy under an attack with gradients must fall to 0. Otherwise gradients are masked, or the
attack is weak. If more iterations do not lower the accuracy, the attack has enough iterations.

curve = kr.evaluation.epsilon_curve(model, test, PGD(Linf(0.3), steps=100), (0.1, 0.2, 0.3, 0.5, math.inf))
curve = kr.evaluation.iteration_curve(model, test, PGD(Linf(16 / 255), step_size=1 / 255))
print(curve["verdict"])
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_robust.attacks import PGD, Attack
from keras_robust.attacks.attack import State, by_batch
from keras_robust.core import seeds
from keras_robust.core.objectives import Goal
from keras_robust.core.seeds import Tensor
from keras_robust.evaluation.attack_run import (
    CHUNK_BATCHES,
    AttackRun,
    check_attack,
    check_fits,
    check_gradients,
    check_inside,
    check_restarts,
    progress_bar,
)
from keras_robust.evaluation.inputs import EvaluationSetup, prepare_evaluation, rank_labels
from keras_robust.reports.formatting import percent

ITERATIONS = (10, 20, 50, 100, 200, 500, 1000, 2000)

FLAT = 0.005
"""A curve is flat if doubling the iterations lowers the accuracy by at most this fraction. The curves that Xie & Yuille
(2020, figures 2 and 3, table 7) call asymptotic lose 0.4 to 0.6 points from 500 to 2000 iterations. Their other curves
lose 4.3 and 5.7 points."""


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

    An example that is broken at one epsilon is also broken at every larger epsilon, because the larger ball contains
    the same point. It is not attacked again, so the accuracy never rises. A classifier that is random at inference is
    attacked anew at each epsilon, and judged once per epsilon.

    If the attack has a `step_size` or a `start_radius`, it grows in proportion to epsilon. PGD scales its default step
    size itself. The attack is traced once, with epsilon as an argument.

    Args:
        model: see `evaluate`.
        dataset: see `evaluate`.
        attack: any attack. Its own epsilon only sets the ratio of `step_size` or `start_radius` to epsilon.
        epsilons: increasing numbers, in the units of the images. 0 may be left out. If the last is `math.inf`, it is
            replaced by the smallest epsilon that allows every image of the pixel range: for pixels in [0, 1], 1 for
            Linf, the square root of the number of values of an image for L2, and that number for L1. Larger epsilons
            are then left out.
        batch_size: number of examples attacked at a time, a multiple of the number of replicas.
        seed: seed of the random draws of the attack, in [0, 2**31). It is the same at every epsilon.
        verbose: show progress bars.
        compile_attack: see `evaluate`.

    Returns:
        A dictionary of plain Python values:

        - `kind`: "epsilon_curve".
        - `attack`: the name of the attack as given.
        - `norm`: the norm of its threat model.
        - `epsilons`: the epsilons, which start with 0.
        - `accuracy`: a fraction for each epsilon. The first is the clean accuracy.
        - `broken_at`: for each example, the epsilon at which it was broken: 0 if the classifier is wrong on the clean
          image, None if the example withstood all epsilons. None instead of the list if the classifier is random.
        - `verdict`: a sentence.
        - `seconds`: duration in seconds.

    Raises:
        ValueError: if an argument is not as described.
    """
    begin = time.perf_counter()
    check_attack(attack)
    given = _check_epsilons(attack, epsilons)
    bounds = attack.threat_model.bounds
    setup = prepare_evaluation(
        model, dataset, bounds, batch_size=batch_size, seed=seed, verbose=verbose, compile_attack=compile_attack
    )
    check_fits([attack], setup)
    covering = attack.threat_model.covering_epsilon(setup.images[0].size)
    larger = _up_to(covering, given)
    for epsilon in larger:
        dataclasses.replace(attack.threat_model, epsilon=epsilon)
    check_restarts(attack, setup)
    check_gradients({attack.name: attack.resized(larger[0])}, setup)
    ranks, run = [setup.clean_ranks], AttackRun(attack, setup)
    for epsilon in larger:
        ranks.append(run.at(epsilon).run(setup.first_ranks if setup.is_random else ranks[-1]).ranks)
    tried, withstood = [0.0, *larger], np.equal(ranks, 0)
    accuracy = withstood.mean(axis=1).tolist()
    return {
        "kind": "epsilon_curve",
        "attack": attack.name,
        "norm": attack.threat_model.norm,
        "epsilons": tried,
        "accuracy": accuracy,
        "broken_at": None if setup.is_random else _first_failures(withstood, tried),
        "verdict": _judge_epsilons(tried, accuracy, covering) + setup.note_of_randomness,
        "seconds": time.perf_counter() - begin,
    }


def _check_epsilons(attack: Attack, epsilons: Any) -> list[float]:
    """Returns the epsilons above 0.

    Raises:
        ValueError: if they are not increasing; if the last is 0; or if the attack has an epsilon of 0 and a step size
            or start radius.
    """
    given = list(epsilons) if isinstance(epsilons, list | tuple) else []
    numbers = all(isinstance(epsilon, int | float) and not isinstance(epsilon, bool) for epsilon in given)
    if not given or not numbers or not given[-1] > 0 or not given[0] >= 0 or given != sorted(set(given)):
        raise ValueError(
            f"epsilons must be increasing numbers, and the last must be above 0. Received: epsilons={epsilons!r}"
        )
    attack.resized(float(given[-1]))
    return [float(epsilon) for epsilon in given if epsilon > 0]


def _up_to(covering: float, epsilons: list[float]) -> list[float]:
    """Returns the epsilons. If the last is infinite, it is replaced by `covering`, and larger ones are left out."""
    return epsilons if epsilons[-1] < math.inf else [*(epsilon for epsilon in epsilons if epsilon < covering), covering]


def _judge_epsilons(epsilons: list[float], accuracy: list[float], covering: float) -> str:
    if accuracy[-1] == 0:
        return f"The attack reaches 0 % at epsilon {epsilons[accuracy.index(0)]:.4g}."
    left = f"{percent(accuracy[-1])} of the examples withstand the largest epsilon, {epsilons[-1]:.4g}"
    if epsilons[-1] * (1 + 1e-6) >= covering:
        return (
            f"{left}. This epsilon allows every image of the pixel range, so no example can be robust: gradients are "
            "masked, or the attack is too weak to follow them."
        )
    return f"The attack does not reach 0 %: {left}. This epsilon does not allow every image of the pixel range."


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

    The paper runs the attack anew for each number of iterations. Here a single run passes through all numbers, so that
    the curve costs no more than its largest number. An example is broken at the first number at which it is
    misclassified, and is not attacked further. The accuracy therefore never rises. Iterations between the numbers are
    not judged. A classifier that is random at inference is judged anew at each number, and no example is dropped.

    The step size is the same at every step, as in the paper (1/255 at epsilon 16/255): the `step_size` of `attack`, or
    2.5 epsilon / `steps` if it is None. The number of steps of `attack` has no other effect.

    Args:
        model: see `evaluate`.
        dataset: see `evaluate`.
        attack: PGD with one restart.
        iterations: increasing integers, at least 1. The last must be at least twice the first.
        batch_size: number of examples attacked at a time, a multiple of the number of replicas.
        seed: seed of the random draws of the attack, in [0, 2**31).
        verbose: show a progress bar.
        compile_attack: see `evaluate`.

    Returns:
        A dictionary of plain Python values:

        - `kind`: "iteration_curve".
        - `attack`: the name of the attack with the largest number of iterations.
        - `iterations`: the numbers of iterations.
        - `accuracy`: a fraction for each number.
        - `broken_at`: for each example, the number of iterations at which it was broken: 0 if the classifier is wrong
          on the clean image, None if the example withstood all. None instead of the list if the classifier is random.
        - `flat`: whether the last doubling of the iterations lowered the accuracy by at most 0.5 points or one example.
          The doubling starts at the largest number that is at most half of the last.
        - `verdict`: a sentence.
        - `seconds`: duration in seconds.

    Raises:
        ValueError: if an argument is not as described.
    """
    begin = time.perf_counter()
    check_attack(attack, PGD)
    if attack.restarts > 1:
        raise ValueError(f"iteration_curve needs an attack with restarts=1. Received: restarts={attack.restarts}")
    counts = _check_iterations(iterations)
    followed = dataclasses.replace(attack, steps=counts[-1], step_size=attack.resolved_step_size)
    bounds = attack.threat_model.bounds
    setup = prepare_evaluation(
        model, dataset, bounds, batch_size=batch_size, seed=seed, verbose=verbose, compile_attack=compile_attack
    )
    check_fits([followed], setup)
    check_gradients({followed.name: followed}, setup)
    withstood = _IterationRun(followed, setup, counts).withstood()
    accuracy = withstood.mean(axis=1).tolist()
    flat, verdict = _judge_iterations(counts, accuracy, len(setup.images))
    return {
        "kind": "iteration_curve",
        "attack": followed.name,
        "iterations": counts,
        "accuracy": accuracy,
        "broken_at": None
        if setup.is_random
        else _first_failures(np.stack([setup.clean_ranks == 0, *withstood]), [0, *counts]),
        "flat": flat,
        "verdict": verdict + setup.note_of_randomness,
        "seconds": time.perf_counter() - begin,
    }


def _check_iterations(iterations: Any) -> list[int]:
    counts = list(iterations) if isinstance(iterations, list | tuple) else []
    integers = all(isinstance(count, int) and not isinstance(count, bool) for count in counts)
    if not counts or not integers or counts[0] < 1 or counts != sorted(set(counts)):
        raise ValueError(f"iterations must be increasing integers of at least 1. Received: iterations={iterations!r}")
    if counts[-1] < 2 * counts[0]:
        raise ValueError(
            "The last number of iterations must be at least twice the first, because a curve is flat if doubling the "
            "iterations does not lower the accuracy. "
            f"Received: iterations={iterations!r}"
        )
    return counts


def _judge_iterations(counts: list[int], accuracy: list[float], examples: int) -> tuple[bool, str]:
    """Returns whether the curve is flat at its end, and a sentence that says so."""
    earlier = max(index for index, count in enumerate(counts) if 2 * count <= counts[-1])
    few, many = accuracy[earlier], accuracy[-1]
    flat = few - many <= max(FLAT, 1 / examples) + 1e-9  # accuracies are rounded floats
    numbers = f"{percent(few)} withstand {counts[earlier]} iterations, {percent(many)} withstand {counts[-1]}"
    if flat:
        return True, f"The curve is flat: {numbers}."
    return False, f"The curve still falls, so more iterations may find more: {numbers}."


class _IterationRun:
    """One run of PGD that is judged after each of `counts` iterations. Chunks drop their broken examples."""

    def __init__(self, attack: PGD, setup: EvaluationSetup, counts: list[int]) -> None:
        batch_size = setup.batch_size_for(int((setup.first_ranks == 0).sum()))
        self._attack, self._setup, self._counts = attack, dataclasses.replace(setup, batch_size=batch_size), counts
        source_fn, target_fn = setup.source.model_fn_for(attack.compute_dtype), setup.target.model_fn_for(None)

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
            setup.batch_function(function) for function in (start, advance, is_wrong)
        )

    def withstood(self) -> np.ndarray:
        """Returns (counts, examples) bool: which examples are right at each count.

        If the target is not random, an example must also be right at all counts before.
        """
        setup, last = self._setup, self._counts[-1]
        result = np.zeros((len(self._counts), len(setup.images)), bool)
        candidates = np.flatnonzero(setup.first_ranks == 0)
        bar = progress_bar("iterations", len(candidates) * last, "steps", setup.verbose)
        size = CHUNK_BATCHES * setup.batch_size
        for number, begin in enumerate(range(0, len(candidates), size)):
            chunk = candidates[begin : begin + size]
            looks = self._looks(chunk, seeds.fold(seeds.as_seed(setup.seed), number))
            for look, (count, left, right) in enumerate(looks):
                result[look, right] = True
                bar.update(begin * last + len(left) * count + (len(chunk) - len(left)) * last - bar.n)
        bar.close()
        return result

    def _looks(self, left: np.ndarray, seed: Tensor) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields (count, examples that the run continues with, examples that are right) until no example is left."""
        setup = self._setup
        state = self._batches(self._start, (setup.images[left], setup.labels[left]), seed)
        for before, count in itertools.pairwise([0, *self._counts]):
            state = self._batches(self._advance, state, count - before, seed)
            check_inside(self._attack, state["points"], state["images"])
            wrong = self._batches(self._is_wrong, (state["points"], setup.sparse_labels[left]), seed)
            right = left[~wrong]
            if not setup.is_random:
                left, state = right, {name: values[~wrong] for name, values in state.items()}
            yield count, left, right
            if not len(left):
                return

    def _batches(self, function: Any, values: Any, *scalars_and_seed: Any) -> Any:
        *scalars, seed = scalars_and_seed
        return by_batch(
            lambda batch, index: function(batch, *scalars, seeds.fold(seed, index)), values, self._setup.batch_size
        )


def _first_failures(withstood: np.ndarray, values: Sequence[Any]) -> list[Any]:
    """Returns for each example the smallest value that it does not withstand, or None if it withstands all.

    Args:
        withstood: (values, examples) bool. An example that does not withstand a value withstands no larger one.
        values: increasing values, one for each row.
    """
    return [values[count] if count < len(values) else None for count in withstood.sum(axis=0)]

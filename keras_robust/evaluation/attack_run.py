"""How an attack is run over a data set: in chunks of examples, whose broken ones leave between blocks of steps.

`run_attack` runs one attack in an `EvaluationSetup`. Before that `check_fits`, `check_restarts` and `check_gradients`
say whether it can run; `craft` attacks all examples to the end instead, for other classifiers to judge, or for the eye.
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_robust.attacks import Attack, IterativeAttack
from keras_robust.attacks.attack import ModelFn, State, by_batch, value_and_gradient, with_whole_gradient
from keras_robust.core import seeds
from keras_robust.core.checks import TOLERANCE
from keras_robust.core.objectives import cross_entropy
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import replace_unchecked
from keras_robust.core.threat_models import flatten
from keras_robust.evaluation.inputs import EvaluationSetup, classify, rank_labels
from keras_robust.evaluation.journal import Journal

CHUNK_BATCHES = 8
"""So many batches are attacked side by side: their survivors fill common batches. An attack of one block has none."""

SECONDS_BETWEEN_SAVES = 30.0
"""A chunk's progress is some ten arrays of the size of its images: writing them after every block would cost more than
the few blocks that a kill loses."""

PICTURES = 8
"""So many examples are kept as pictures: half of them broken, if there are as many."""

AIM, EPSILONS = "aim", "epsilons"
"""Entries of the state beside those of an attack: the class that it goes towards, and each example's epsilon."""

SMALLEST_BLOCK, LARGEST_BLOCK = 128, 16
"""Blocks double from a 128th of an attack's steps, in which most examples of a weak classifier break, to a 16th."""

FEW_WITHOUT_GRADIENT = 0.05
"""So large a share of examples may have no gradient."""


@dataclasses.dataclass
class AttackResult:
    """What an attack did to each example.

    Attributes:
        pictures: some images as last attacked, by the number of the example: those that broke it, where it is broken.
            Among them are those of the first examples that were broken and of the first that were not, for a report.
        predictions: (examples,) int, of the images as last attacked.
        ranks: (examples,) int: the largest number of classes ranked above the label, unattacked included.
        examples: how many were attacked; the others are as they were.
        seconds: that it took, compilation included.
        was_attacked: (examples,) bool.
        reached: (examples,) bool: classified as the class that the attack goes towards, which is not the label; None
            for attacks without an `aim`.
        attacked: (examples, height, width, channels) float32: all images as last attacked, or clean where they were
            not; None where they are not kept.
        without_gradient: the share of the attacked examples that are right where the attack starts, without a gradient
            there; None if it follows none, or nobody has looked.
    """

    pictures: dict[int, np.ndarray]
    predictions: np.ndarray
    ranks: np.ndarray
    examples: int
    seconds: float
    was_attacked: np.ndarray
    reached: np.ndarray | None = None
    attacked: np.ndarray | None = None
    without_gradient: float | None = None

    @property
    def robust(self) -> np.ndarray:
        """(examples,) bool: right unattacked and under the attack."""
        return self.ranks == 0


def run_attack(
    attack: Attack,
    setup: EvaluationSetup,
    ranks: np.ndarray,
    journal: Journal | None = None,
    key: str = "",
    *,
    keep_attacked: bool = False,
) -> AttackResult:
    """Attacks every example that is right so far, block after block, until it is broken.

    Towards given targets it is attacked until it is classified as its target, too.

    Args:
        attack: what is kept per example is the first point that reaches its given target, or else the first that breaks
            it, otherwise the last.
        setup: who is attacked.
        ranks: (examples,) int: of the labels, so far; examples with `setup.top_k` or more are not attacked.
        journal: where the progress of each chunk is kept, and read from.
        key: under which.
        keep_attacked: keep the attacked images of all examples, not only of those that a report may show.
    """
    return AttackRun(attack, setup).run(ranks, journal, key, keep_attacked=keep_attacked)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The progress of some examples; its arrays, but for `left` and `state`, have a row for each of them.

    Attributes:
        before: how many examples were attacked in the chunks before.
        examples: their numbers.
        left: (examples left,) which of them are not broken.
        attacked: images as last attacked.
        predictions: of these images.
        ranks: the largest so far.
        reached: bool: classified as the class that the attack goes towards, at any step.
        step: how many steps were made.
        seconds: that this took.
        state: of the attack, with a row for each example left; empty before the first and after the last step.
    """

    before: int
    examples: np.ndarray
    left: np.ndarray
    attacked: np.ndarray
    predictions: np.ndarray
    ranks: np.ndarray
    reached: np.ndarray
    step: int
    seconds: float
    state: dict[str, np.ndarray]

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Returns everything as named arrays."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        state = fields.pop("state")
        return {name: np.asarray(value) for name, value in fields.items()} | {
            f"state/{name}": values for name, values in state.items()
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """Returns what `as_arrays` was called on; version 0.1 did not keep `reached`."""
        state = {name.removeprefix("state/"): value for name, value in arrays.items() if name.startswith("state/")}
        fields: dict[str, Any] = {name: value for name, value in arrays.items() if not name.startswith("state/")}
        fields.setdefault("reached", np.zeros(len(fields["examples"]), bool))
        numbers = {"before": int, "step": int, "seconds": float}
        return cls(**fields | {name: kind(fields[name]) for name, kind in numbers.items()} | {"state": state})


class AttackRun:
    """One attack in one setup, with the graphs that it runs."""

    def __init__(self, attack: Attack, setup: EvaluationSetup) -> None:
        self.attack, self.setup = attack, setup
        self.batch_size: int | None = None
        iterative = _as_iterative(attack, setup)
        source_fn, target_fn = setup.source.model_fn_for(attack.compute_dtype), setup.target.model_fn_for(None)
        self.total = iterative.total_steps
        self.go_on = iterative.go_on
        if isinstance(iterative, Restarts):
            self.blocks = [(step, 1) for step in range(self.total)]
        else:
            # Of a black box, or where passes are random, only the attack's last images say what it is worth.
            judged_once = not setup.white_box or iterative.eot_iter > 1 or setup.is_random
            self.blocks = [(0, self.total)] if judged_once else list(blocks(self.total))

        def sized(epsilons: Tensor | None) -> IterativeAttack:
            return iterative if epsilons is None else _as_iterative(attack.resized(epsilons), setup)

        def start(batch: tuple[Tensor, Tensor, State], seed: Tensor) -> State:
            images, labels, own = batch
            of_balls = {name: values for name, values in own.items() if name == EPSILONS}
            state = sized(own.get(EPSILONS)).start(source_fn, images, labels, seed, own.get(AIM))
            return {**state, **of_balls}

        def advance(state: State, first: Tensor, steps: Tensor, seed: Tensor) -> State:
            own = {name: values for name, values in state.items() if name != EPSILONS}
            advanced = sized(state.get(EPSILONS)).advance(source_fn, own, first, steps, seed)
            return {**state, **advanced}

        def judge(batch: tuple[State, Tensor], seed: Tensor) -> tuple[Tensor, ...]:
            del seed
            attacked = iterative.finish(batch[0])
            logits = target_fn(attacked)
            return attacked, classify(logits), rank_labels(logits, batch[1])

        self._start, self._advance, self._judge = (
            setup.batch_function(function) for function in (start, advance, judge)
        )

    def at(self, epsilon: float) -> Self:
        """Returns this run at one epsilon for all examples, in place of that of the attack.

        All runs so made share their graphs, and have batches of one size: each is traced once.
        """
        epsilons = np.full(len(self.setup.images), epsilon, np.float32)
        run = copy.copy(self)
        run.attack, run.setup = self.attack.resized(epsilon), dataclasses.replace(self.setup, epsilons=epsilons)
        run.batch_size = self.setup.batch_size_for(len(epsilons))
        return run

    def run(
        self, ranks: np.ndarray, journal: Journal | None = None, key: str = "", *, keep_attacked: bool = False
    ) -> AttackResult:
        """Attacks the examples whose rank is below `top_k`: see `run_attack`."""
        setup, was_attacked = self.setup, ranks < self.setup.top_k
        candidates = np.flatnonzero(was_attacked)
        result = AttackResult({}, setup.clean_predictions, ranks.copy(), len(candidates), 0.0, was_attacked)
        result.reached = np.zeros(len(ranks), bool) if self.attack.aim else None
        result.attacked = setup.images.copy() if keep_attacked else None
        box = "white box" if setup.white_box else "black box"
        unit = "steps" if isinstance(self.attack, IterativeAttack) else "restarts"
        shown = self.attack if setup.epsilons is None else self.attack.resized(setup.epsilons)
        bar = progress_bar(f"{shown.name}, {box}", len(candidates) * self.total, unit, setup.verbose)
        batch_size = self.batch_size or setup.batch_size_for(len(candidates))
        size = batch_size * (CHUNK_BATCHES if len(self.blocks) > 1 else 1)
        for number, begin in enumerate(range(0, len(candidates), size)):
            chunk_key, chunk_seed = f"{key}-{number}", seeds.fold(seeds.as_seed(setup.seed), number)
            chunk = self._resume(candidates[begin:][:size], begin, ranks, journal, chunk_key)
            self._collect(chunk, result, bar)
            saved = time.monotonic()
            while (block := self._next_block(chunk)) is not None:
                chunk = self._after_block(chunk, *block, batch_size, chunk_seed, bar)
                is_over = self._next_block(chunk) is None
                if journal is not None and (is_over or time.monotonic() - saved >= SECONDS_BETWEEN_SAVES):
                    journal.save(chunk_key, chunk.as_arrays())
                    saved = time.monotonic()
                self._collect(chunk, result, bar)
            self._keep_pictures(chunk, result)
            result.seconds += chunk.seconds
        bar.close()
        return result

    def _resume(self, chosen: np.ndarray, begin: int, ranks: np.ndarray, journal: Journal | None, key: str) -> Chunk:
        """Returns the chunk of the examples `chosen` as the journal has it, or before its first step."""
        arrays = None if journal is None else journal.load(key)
        if arrays is not None:
            return Chunk.from_arrays(arrays)
        setup = self.setup
        return Chunk(
            before=begin,
            examples=chosen,
            left=np.arange(len(chosen)),
            attacked=setup.images[chosen],
            predictions=setup.clean_predictions[chosen],
            ranks=ranks[chosen],
            reached=np.zeros(len(chosen), bool),
            step=0,
            seconds=0.0,
            state={},
        )

    def _of_each(self, examples: np.ndarray) -> State:
        """Returns what the examples have of their own beside image and label, as far as the attack takes it."""
        own = {EPSILONS: self.setup.epsilons, AIM: self.setup.targets if self.attack.aim == "given" else None}
        return {name: values[examples] for name, values in own.items() if values is not None}

    def _next_block(self, chunk: Chunk) -> tuple[int, int] | None:
        """Returns (first step, steps) of the block that a chunk has not seen yet, or None."""
        return next((block for block in self.blocks if block[0] >= chunk.step), None) if len(chunk.left) else None

    def _collect(self, chunk: Chunk, result: AttackResult, bar: tqdm) -> None:
        """Writes what happened to a chunk into the result, and shows it."""
        result.predictions[chunk.examples], result.ranks[chunk.examples] = chunk.predictions, chunk.ranks
        if result.reached is not None:
            result.reached[chunk.examples] = chunk.reached
        if result.attacked is not None:
            result.attacked[chunk.examples] = chunk.attacked
        is_over = chunk.step >= self.total
        left_over = result.examples - chunk.before - len(chunk.examples)
        steps = len(chunk.left) * chunk.step + (len(chunk.examples) - len(chunk.left)) * self.total
        left = left_over + len(chunk.left) * (not is_over)
        bar.set_postfix_str(f"{left} left, {100 * result.robust.mean():.1f} % robust", refresh=False)
        bar.update(chunk.before * self.total + steps - bar.n)

    def _keep_pictures(self, chunk: Chunk, result: AttackResult) -> None:
        """Puts the attacked images of a chunk that a report may show into the result."""
        was_right = self.setup.clean_ranks[chunk.examples] == 0
        is_wrong = chunk.predictions != self.setup.sparse_labels[chunk.examples]
        for rows, most in ((was_right & is_wrong, PICTURES // 2), (chunk.ranks == 0, PICTURES)):
            for row in np.flatnonzero(rows)[:most]:
                result.pictures[int(chunk.examples[row])] = chunk.attacked[row].copy()

    def _after_block(self, chunk: Chunk, first: int, steps: int, batch_size: int, seed: Tensor, bar: tqdm) -> Chunk:
        begin, setup = time.perf_counter(), self.setup
        examples = chunk.examples[chunk.left]

        def start(batch: Any, index: int) -> Any:
            return self._start(batch, seeds.fold(seed, 0, index))

        def advance(batch: Any, index: int) -> Any:
            advanced = self._advance(batch, first, steps, seeds.fold(seed, 1, index))
            bar.update(steps * min(batch_size, len(examples) - index * batch_size))
            return advanced

        state = chunk.state
        if first == 0:
            own = self._of_each(examples)
            state = by_batch(start, (setup.images[examples], setup.labels[examples], own), batch_size)
        state = by_batch(advance, state, batch_size)
        attacked, predictions, found = by_batch(
            lambda batch, _: self._judge(batch, seed), (state, setup.sparse_labels[examples]), batch_size
        )
        check_inside(self.attack, attacked, setup.images[examples], state.get(EPSILONS))
        changing = ("attacked", "predictions", "ranks", "reached")
        chunk = dataclasses.replace(chunk, **{name: getattr(chunk, name).copy() for name in changing})
        reached = np.zeros(len(examples), bool)
        if self.attack.aim:
            reached = (predictions == state[AIM]) & (predictions != setup.sparse_labels[examples])
        # What is broken already is here only to reach its target.
        kept = (chunk.ranks[chunk.left] < setup.top_k) | reached
        chunk.attacked[chunk.left[kept]], chunk.predictions[chunk.left[kept]] = attacked[kept], predictions[kept]
        chunk.ranks[chunk.left] = np.maximum(chunk.ranks[chunk.left], found)
        chunk.reached[chunk.left] |= reached
        holds = chunk.ranks[chunk.left] < setup.top_k
        if self.attack.aim == "given":
            holds |= ~chunk.reached[chunk.left]
        left = {name: values[holds] for name, values in state.items()} if first + steps < self.total else {}
        return dataclasses.replace(
            chunk,
            left=chunk.left[holds],
            step=first + steps,
            seconds=chunk.seconds + time.perf_counter() - begin,
            state={name: np.asarray(values) for name, values in self.go_on(left).items()} if left else {},
        )


def _as_iterative(attack: Attack, setup: EvaluationSetup) -> IterativeAttack:
    return attack if isinstance(attack, IterativeAttack) else Restarts(attack, whole=setup.is_random)


@dataclasses.dataclass(frozen=True)
class Restarts(IterativeAttack):
    """Any attack as an iterative one, whose steps are its restarts; or one step if it chooses among them itself."""

    attack: Attack
    whole: bool = False

    @property
    def total_steps(self) -> int:
        """The number of restarts that are judged."""
        return 1 if self.whole else self.attack.restarts

    def start(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor, targets: Tensor | None = None
    ) -> State:
        """Returns the images as they are."""
        broken = tf.zeros(tf.shape(images)[:1], tf.bool)
        state = {"images": images, "labels": labels, "attacked": images, "broken": broken}
        if self.attack.aim:
            state[AIM] = tf.zeros(tf.shape(images)[:1], tf.int32) if targets is None else targets
        return state

    def advance(self, model_fn: ModelFn, state: State, first_step: Tensor, steps: Tensor, seed: Tensor) -> State:
        """Runs the attack once from a new start: its blocks are of one step."""
        single = self.attack if self.whole else replace_unchecked(self.attack, restarts=1)
        arguments = (model_fn, state["images"], state["labels"], seeds.fold(seed, first_step))
        if not single.aim:
            return {**state, "attacked": single(*arguments)}
        targets = state[AIM] if single.aim == "given" else None
        return {**state, "attacked": single(*arguments, targets), AIM: single.aimed_at(*arguments, targets)}

    def finish(self, state: State) -> Tensor:
        """Returns the images of the last run."""
        return state["attacked"]


def blocks(total: int) -> Iterator[tuple[int, int]]:
    """Yields (first step, steps) of the blocks that an attack of `total` steps is cut into."""
    first = 0
    while first < total:
        steps = max(1, total // SMALLEST_BLOCK, min(first, total // LARGEST_BLOCK))
        yield first, min(steps, total - first)
        first += steps


def progress_bar(description: str, total: int, unit: str, verbose: bool) -> tqdm:
    """Returns a bar for the terminal or the notebook; in a terminal it goes to the standard error."""
    return tqdm(desc=description, total=total, unit=f" {unit}", unit_scale=True, disable=not verbose)


def check_inside(attack: Attack, attacked: np.ndarray, images: np.ndarray, epsilons: np.ndarray | None = None) -> None:
    """Raises `ValueError` if an attack's images are not finite or left its threat model: nothing is measured then.

    Args:
        attack: whose epsilon all examples have if `epsilons` is None.
        attacked: (examples, ...).
        images: of the same shape.
        epsilons: (examples,).
    """
    ball = attack.threat_model
    broken = ~np.isfinite(attacked).reshape(len(attacked), -1).all(axis=1)
    if broken.any():
        raise ValueError(
            f"{attack.name} returned images that are not finite, as where the gradients of the classifier are not. "
            f"Received: pixels that are NaN or infinite in {broken.sum()} of {len(attacked)} examples"
        )
    radius = np.full(len(images), ball.epsilon) if epsilons is None else epsilons
    distance = np.asarray(ball.distance(attacked, images))
    farthest = np.argmax(distance - radius)
    low, high = float(attacked.min()), float(attacked.max())
    inside = bool(np.all(distance <= radius * (1 + 1e-4) + TOLERANCE))
    if not (inside and ball.bounds[0] - TOLERANCE <= low and high <= ball.bounds[1] + TOLERANCE):
        raise ValueError(
            f"{attack.name} left its threat model: pixels in {list(ball.bounds)}, distance at most "
            f"{radius[farthest]:g}. Received: pixels from {low:g} to {high:g}, distance {distance[farthest]:g}"
        )


def craft(attack: Attack, setup: EvaluationSetup, *, whole: bool = False) -> Iterator[np.ndarray]:
    """Yields images that `attack` makes of all examples on the source, float32, of the shape of its images.

    An attack that chooses among its restarts by itself (an `IterativeAttack`) gives one array, any other one per
    restart, since which restart is the worst depends on the classifier that judges. With `whole` it chooses, too: a
    classifier that is random would break an example in one of many looks.
    """
    source_fn = setup.source.model_fn_for(attack.compute_dtype)
    runs, single = 1, attack
    if not whole and not isinstance(attack, IterativeAttack):
        runs, single = attack.restarts, replace_unchecked(attack, restarts=1)

    def run(batch: tuple[Tensor, Tensor], seed: Tensor) -> Tensor:
        return single(source_fn, *batch, seed)

    run_batch = setup.batch_function(run)

    def one_run(seed: Tensor) -> np.ndarray:
        values = (setup.images, setup.labels)
        return by_batch(lambda batch, index: run_batch(batch, seeds.fold(seed, index)), values, setup.batch_size)

    for restart in range(runs):
        attacked = one_run(seeds.fold(seeds.as_seed(setup.seed), restart))
        check_inside(attack, attacked, setup.images)
        yield attacked


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
    check_takes_no_targets(attack)


def check_takes_no_targets(attack: Attack) -> None:
    """Raises `ValueError` if an attack needs targets, of a measurement that has none."""
    if attack.aim == "given":
        raise ValueError(f"Given targets are for evaluate, with targets. Received: attack={attack!r}")


def check_fits(attacks: Iterable[Attack], setup: EvaluationSetup) -> None:
    """Checks that attacks can run in a setup, before any of them does.

    Args:
        attacks: see `evaluate`.
        setup: who is attacked.

    Raises:
        ValueError: if an attack needs more classes, images of another shape, or another precision than there are.
    """
    for attack in attacks:
        setup.source.model_fn_for(attack.compute_dtype)
        attack.check_fits(setup.images.shape[1:], setup.classes)


def check_restarts(attack: Attack, setup: EvaluationSetup) -> None:
    """Raises `ValueError` if an attack of a random classifier would pick the luckiest of its restarts."""
    if setup.is_random and attack.restarts > 1 and getattr(attack, "eot_iter", 1) == 1:
        raise ValueError(
            f"{setup.target.description} is random at inference: its logits for the same images differ by "
            f"{setup.change:.2g} of the largest between two passes. Each restart would be another chance for the "
            "noise to break an example. Average the gradients over several passes, as PGD(..., eot_iter=20) and APGD "
            "do, or use AutoAttack's version 'rand'; or make a single run. "
            f"Received: restarts={attack.restarts} of {attack.name}"
        )


class FirstGradient:
    """Whether an attack has a gradient to follow: that of its objective, where it starts, in the source.

    A look costs one input gradient per example, once. An example that is misclassified where the attack starts needs
    none: a margin that stops growing there has none.

    Args:
        attack: one that follows gradients.
        setup: who is attacked.
    """

    def __init__(self, attack: Attack, setup: EvaluationSetup) -> None:
        self._setup = setup
        self._seen: dict[tuple[int, bytes], tuple[np.ndarray, np.ndarray]] = {}
        source_fn = with_whole_gradient(setup.source.model_fn_for(attack.compute_dtype))

        def look(batch: tuple[Tensor, ...], seed: Tensor) -> tuple[Tensor, Tensor]:
            images, labels, sparse, *epsilons = batch
            sized = attack.resized(*epsilons) if epsilons else attack
            logits, gradient = sized.first_gradient(source_fn, images, labels, seed)
            usable, right = is_usable(gradient), rank_labels(logits, sparse) == 0
            return right & usable, right & ~usable

        self._look = setup.batch_function(look)

    def exists(self, examples: np.ndarray) -> bool:
        """Returns whether one of the examples, by their numbers, needs a gradient and has one, or none needs one."""
        any_stuck = False
        for moved, stuck in self._looks(examples):
            if moved.any():
                return True
            any_stuck |= bool(stuck.any())
        return not any_stuck

    def share_without(self, examples: np.ndarray) -> float:
        """Returns the share of the examples that need a gradient and have none."""
        stuck = sum(int(stuck.sum()) for _, stuck in self._looks(examples))
        return stuck / max(len(examples), 1)

    def _looks(self, examples: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields, batch after batch, which examples need a gradient and have one, and which need one and have none."""
        setup, batch_size = self._setup, self._setup.batch_size_for(len(examples))
        for number, begin in enumerate(range(0, len(examples), batch_size)):
            rows = examples[begin : begin + batch_size]
            key = (number, rows.tobytes())
            if key not in self._seen:
                arrays = (setup.images, setup.labels, setup.sparse_labels, setup.epsilons)
                values = tuple(array[rows] for array in arrays if array is not None)
                self._seen[key] = by_batch(self._with_seed(number), values, batch_size)
            yield self._seen[key]

    def _with_seed(self, number: int) -> Callable[[Any, int], Any]:
        seed = seeds.fold(seeds.as_seed(self._setup.seed), number)
        return lambda batch, _: self._look(batch, seed)


def check_gradients(
    attacks: Mapping[str, Attack], setup: EvaluationSetup, *, together: bool = False
) -> dict[str, FirstGradient]:
    """Returns what tells the gradients of the attacks that follow some, having looked whether there are any.

    An attack without a gradient would leave all images as they are, and each classifier would seem to withstand it.

    Args:
        attacks: by name.
        setup: who is attacked.
        together: the attacks are judged together: it is enough that one has a gradient.

    Raises:
        ValueError: if an attack has no gradient for any example; of attacks judged together, if none has one.
    """
    followers = {name: FirstGradient(attack, setup) for name, attack in attacks.items() if attack.follows_gradients}
    examples = np.flatnonzero(setup.clean_ranks < setup.top_k)
    if together:
        without = [] if any(first.exists(examples) for first in followers.values()) else list(followers)
    else:
        without = [name for name, first in followers.items() if not first.exists(examples)]
    if not without:
        return followers
    raise ValueError(
        "Gradient attacks need gradients, and those of the classifier are zero or not finite for every example, where "
        "the attack starts: all images would stay as they are, and the classifier would seem robust. Where it is not "
        "differentiable, as with quantised inputs, rounding, LiteRT or code inside tf.py_function, use attacks without "
        "gradients (Square, SPSA, HopSkipJump), or craft on a differentiable classifier with `source=`. Where its "
        "logits are so large that the loss is flat in float32, use objective='margin' or 'dlr'. "
        f"Received: {setup.source.description}, attacked by {'; '.join(without)}"
    )


def loss_gradient(model_fn: ModelFn, points: Tensor, labels: Tensor) -> Tensor:
    """Returns the gradient of each example's cross-entropy with respect to its image, of the shape of `points`.

    Args:
        model_fn: maps images to logits (batch, classes).
        points: (batch, height, width, channels) float32.
        labels: sparse (batch,) or one-hot (batch, classes).

    Raises:
        ValueError: if the classifier is not differentiable in its images.
    """
    return value_and_gradient(lambda points: cross_entropy(labels, model_fn(points)), points)[1]


def is_usable(gradient: Tensor) -> Tensor:
    """Returns where a gradient (batch, ...) is finite and not all zero, bool (batch,)."""
    gradient = flatten(gradient)
    return tf.reduce_all(tf.math.is_finite(gradient), axis=1) & tf.reduce_any(gradient != 0, axis=1)

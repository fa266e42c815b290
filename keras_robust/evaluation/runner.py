"""Runs one attack over all examples, in chunks whose broken examples leave between blocks of steps."""

import copy
import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_robust.attacks import Attack, IterativeAttack
from keras_robust.attacks.attack import ModelFn, State
from keras_robust.core import seeds
from keras_robust.core.checks import TOLERANCE
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import replace_unchecked
from keras_robust.evaluation.chunk import Chunk
from keras_robust.evaluation.execution import by_batch, compile_batch_function, progress_bar
from keras_robust.evaluation.journal import Journal
from keras_robust.evaluation.ranks import classify, rank_labels
from keras_robust.evaluation.setting import Setting

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


def run_attack(
    attack: Attack,
    setting: Setting,
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
        setting: who is attacked.
        ranks: (examples,) int: of the labels, so far; examples with `setting.top_k` or more are not attacked.
        journal: where the progress of each chunk is kept, and read from.
        key: under which.
        keep_attacked: keep the attacked images of all examples, not only of those that a report may show.
    """
    return AttackRun(attack, setting).run(ranks, journal, key, keep_attacked=keep_attacked)


def _as_iterative(attack: Attack, setting: Setting) -> IterativeAttack:
    return attack if isinstance(attack, IterativeAttack) else Restarts(attack, whole=setting.is_random)


class AttackRun:
    """One attack in one setting, with its compiled functions."""

    def __init__(self, attack: Attack, setting: Setting) -> None:
        self.attack, self.setting = attack, setting
        self.batch_size: int | None = None
        iterative = _as_iterative(attack, setting)
        source_fn, target_fn = setting.source.model_fn_for(attack.compute_dtype), setting.target.model_fn_for(None)
        self.total = iterative.total_steps
        self.go_on = iterative.go_on
        if isinstance(iterative, Restarts):
            self.blocks = [(step, 1) for step in range(self.total)]
        else:
            # Of a black box, or where passes are random, only the attack's last images say what it is worth.
            judged_once = not setting.white_box or iterative.eot_iter > 1 or setting.is_random
            self.blocks = [(0, self.total)] if judged_once else list(blocks(self.total))

        def sized(epsilons: Tensor | None) -> IterativeAttack:
            return iterative if epsilons is None else _as_iterative(attack.resized(epsilons), setting)

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
            compile_batch_function(function, setting.strategy, setting.compile_attack)
            for function in (start, advance, judge)
        )

    def at(self, epsilon: float) -> Self:
        """Returns this run at one epsilon for all examples, in place of that of the attack.

        All runs so made share their compiled functions, and have batches of one size: they are compiled once.
        """
        epsilons = np.full(len(self.setting.images), epsilon, np.float32)
        run = copy.copy(self)
        run.attack, run.setting = self.attack.resized(epsilon), dataclasses.replace(self.setting, epsilons=epsilons)
        run.batch_size = self.setting.batch_size_for(len(epsilons))
        return run

    def run(
        self, ranks: np.ndarray, journal: Journal | None = None, key: str = "", *, keep_attacked: bool = False
    ) -> AttackResult:
        """Attacks the examples whose rank is below `top_k`: see `run_attack`."""
        setting, was_attacked = self.setting, ranks < self.setting.top_k
        candidates = np.flatnonzero(was_attacked)
        result = AttackResult({}, setting.clean_predictions, ranks.copy(), len(candidates), 0.0, was_attacked)
        result.reached = np.zeros(len(ranks), bool) if self.attack.aim else None
        result.attacked = setting.images.copy() if keep_attacked else None
        box = "white box" if setting.white_box else "black box"
        unit = "steps" if isinstance(self.attack, IterativeAttack) else "restarts"
        shown = self.attack if setting.epsilons is None else self.attack.resized(setting.epsilons)
        bar = progress_bar(f"{shown.name}, {box}", len(candidates) * self.total, unit, setting.verbose)
        batch_size = self.batch_size or setting.batch_size_for(len(candidates))
        size = batch_size * (CHUNK_BATCHES if len(self.blocks) > 1 else 1)
        for number, begin in enumerate(range(0, len(candidates), size)):
            chunk_key, chunk_seed = f"{key}-{number}", seeds.fold(seeds.as_seed(setting.seed), number)
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
        setting = self.setting
        return Chunk(
            before=begin,
            examples=chosen,
            left=np.arange(len(chosen)),
            attacked=setting.images[chosen],
            predictions=setting.clean_predictions[chosen],
            ranks=ranks[chosen],
            reached=np.zeros(len(chosen), bool),
            step=0,
            seconds=0.0,
            state={},
        )

    def _of_each(self, examples: np.ndarray) -> State:
        """Returns what the examples have of their own beside image and label, as far as the attack takes it."""
        own = {EPSILONS: self.setting.epsilons, AIM: self.setting.targets if self.attack.aim == "given" else None}
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
        was_right = self.setting.clean_ranks[chunk.examples] == 0
        is_wrong = chunk.predictions != self.setting.sparse_labels[chunk.examples]
        for rows, most in ((was_right & is_wrong, PICTURES // 2), (chunk.ranks == 0, PICTURES)):
            for row in np.flatnonzero(rows)[:most]:
                result.pictures[int(chunk.examples[row])] = chunk.attacked[row].copy()

    def _after_block(self, chunk: Chunk, first: int, steps: int, batch_size: int, seed: Tensor, bar: tqdm) -> Chunk:
        begin, setting = time.perf_counter(), self.setting
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
            state = by_batch(start, (setting.images[examples], setting.labels[examples], own), batch_size)
        state = by_batch(advance, state, batch_size)
        attacked, predictions, found = by_batch(
            lambda batch, _: self._judge(batch, seed), (state, setting.sparse_labels[examples]), batch_size
        )
        check_inside(self.attack, attacked, setting.images[examples], state.get(EPSILONS))
        changing = ("attacked", "predictions", "ranks", "reached")
        chunk = dataclasses.replace(chunk, **{name: getattr(chunk, name).copy() for name in changing})
        reached = np.zeros(len(examples), bool)
        if self.attack.aim:
            reached = (predictions == state[AIM]) & (predictions != setting.sparse_labels[examples])
        # What is broken already is here only to reach its target.
        kept = (chunk.ranks[chunk.left] < setting.top_k) | reached
        chunk.attacked[chunk.left[kept]], chunk.predictions[chunk.left[kept]] = attacked[kept], predictions[kept]
        chunk.ranks[chunk.left] = np.maximum(chunk.ranks[chunk.left], found)
        chunk.reached[chunk.left] |= reached
        holds = chunk.ranks[chunk.left] < setting.top_k
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


def check_restarts(attack: Attack, setting: Setting) -> None:
    """Raises `ValueError` if an attack of a random classifier would pick the luckiest of its restarts."""
    if setting.is_random and attack.restarts > 1 and getattr(attack, "eot_iter", 1) == 1:
        raise ValueError(
            f"{setting.target.description} is random at inference: its logits for the same images differ by "
            f"{setting.change:.2g} of the largest between two passes. Each restart would be another chance for the "
            "noise to break an example. Average the gradients over several passes, as PGD(..., eot_iter=20) and APGD "
            "do, or use AutoAttack's version 'rand'; or make a single run. "
            f"Received: restarts={attack.restarts} of {attack.name}"
        )


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

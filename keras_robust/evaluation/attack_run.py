"""How an attack runs over a data set: in chunks of examples, which drop broken examples between blocks of steps.

`run_attack` runs one attack in an `EvaluationSetup`. `check_fits`, `check_restarts` and `check_gradients` say before
whether the attack can run. `craft` attacks all examples to the end instead, so that other classifiers can judge the
images, or people can look at them.
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
"""Number of batches in a chunk. After each block of steps, the unbroken examples of a chunk are put into full batches
again. A chunk has one batch if the attack has a single block, because no examples are dropped before its end."""

SECONDS_BETWEEN_SAVES = 30.0
"""Shortest time between two saves of a chunk. The progress of a chunk is about ten arrays of the size of its images.
Saving it after each block would cost more time than a kill loses."""

PICTURES = 8
"""Number of examples that are kept as pictures. Half of them are broken examples, if there are enough."""

AIM, EPSILONS = "aim", "epsilons"
"""Names of two further entries of an attack's state: the target class and the epsilon of each example."""

SMALLEST_BLOCK, LARGEST_BLOCK = 128, 16
"""The first block has 1/128 of an attack's steps, because most examples of a weak classifier break early. Blocks then
double up to 1/16 of the steps."""

FEW_WITHOUT_GRADIENT = 0.05
"""Largest share of examples without a gradient that gives no warning."""


@dataclasses.dataclass
class AttackResult:
    """What an attack did to each example.

    Attributes:
        pictures: attacked images by the number of the example, for a report: the first broken and the first unbroken
            examples of each chunk, with the image that `run_attack` keeps.
        predictions: (examples,) int, the classes of the images after the attack. An example that was not attacked has
            its clean prediction.
        ranks: (examples,) int: the largest number of classes ranked above the label so far. `run_attack` starts from
            the ranks that it gets, usually those of the clean images.
        examples: number of examples that were attacked.
        seconds: duration in seconds, with compilation.
        was_attacked: (examples,) bool.
        reached: (examples,) bool: whether the image was classified as the target class, which is not the label. None
            for attacks without an `aim`.
        attacked: (examples, height, width, channels) float32: all images after the attack. An example that was not
            attacked has its clean image. None if images are not kept.
        without_gradient: the share of attacked examples that are classified correctly at the start of the attack and
            have no gradient there. None if the attack follows no gradient, or if this was not measured.
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
        """(examples,) bool: whether the label had the largest logit each time that the example was judged."""
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
    """Attacks every example that is not broken yet, block after block, until it is broken.

    An attack towards given targets continues until the example is also classified as its target.

    Args:
        attack: the attack. The result holds one image per example: the first that reached a given target, else the
            first that broke the example, else the last.
        setup: the classifier, the examples and the settings.
        ranks: (examples,) int: the number of classes ranked above the label so far. An example whose rank is
            `setup.top_k` or more is not attacked.
        journal: saves the progress of each chunk. A chunk that is already there continues from its progress.
        key: the start of the names of the chunks in the journal.
        keep_attacked: keep the attacked images of all examples. False keeps only some for the report.
    """
    return AttackRun(attack, setup).run(ranks, journal, key, keep_attacked=keep_attacked)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The progress of an attack on a chunk of examples.

    All arrays have a row for each example of the chunk, except `left` and the arrays of `state`.

    Attributes:
        before: number of attacked examples in the chunks before this one.
        examples: numbers of the examples in the data set.
        left: (examples left,) rows of the examples that the attack continues with.
        attacked: images after the steps so far, as `run_attack` keeps them.
        predictions: classes of these images.
        ranks: largest ranks so far.
        reached: bool: whether the example was classified as its target class after any block.
        step: number of steps so far.
        seconds: duration so far.
        state: state of the attack, with a row for each example left. It is empty before the first step and after the
            last.
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
        """Returns the chunk that `as_arrays` made arrays of. Older files have no `reached`: it is False for all."""
        state = {name.removeprefix("state/"): value for name, value in arrays.items() if name.startswith("state/")}
        fields: dict[str, Any] = {name: value for name, value in arrays.items() if not name.startswith("state/")}
        fields.setdefault("reached", np.zeros(len(fields["examples"]), bool))
        numbers = {"before": int, "step": int, "seconds": float}
        return cls(**fields | {name: kind(fields[name]) for name, kind in numbers.items()} | {"state": state})


class AttackRun:
    """Runs one attack in one setup.

    The attack is split into `blocks` of steps. Each block advances all examples of a chunk, judges them on the target,
    and drops the broken ones. An attack that is not an `IterativeAttack` has one block per restart: see `Restarts`.
    The three graphs (start, advance, judge) are made once, so that several calls of `run` share them.
    """

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
            # In a black box, or if passes are random, judge only the last images. Each further look is another chance.
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
        """Returns a copy of this run with another epsilon, the same for all examples.

        All copies share their graphs and use one batch size, so that each graph is traced once.
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
        """Returns the chunk of the examples `chosen`: from the journal if it is there, otherwise a new one."""
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
        """Returns the epsilons and targets of the examples, if they are given and the attack takes them."""
        own = {EPSILONS: self.setup.epsilons, AIM: self.setup.targets if self.attack.aim == "given" else None}
        return {name: values[examples] for name, values in own.items() if values is not None}

    def _next_block(self, chunk: Chunk) -> tuple[int, int] | None:
        """Returns (first step, steps) of the next block of a chunk, or None if the chunk is finished."""
        return next((block for block in self.blocks if block[0] >= chunk.step), None) if len(chunk.left) else None

    def _collect(self, chunk: Chunk, result: AttackResult, bar: tqdm) -> None:
        """Writes the progress of a chunk into the result, and shows it in the bar."""
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
        """Writes the attacked images of a chunk that a report may show into the result."""
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
        # An example that was broken before is attacked only to reach its target. Its image changes only then.
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
    """Makes an `IterativeAttack` of any attack: each restart is one step.

    Args:
        attack: the attack.
        whole: run all restarts as one step, so that the attack itself chooses among them.
    """

    attack: Attack
    whole: bool = False

    @property
    def total_steps(self) -> int:
        """The number of restarts that are judged."""
        return 1 if self.whole else self.attack.restarts

    def start(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor, targets: Tensor | None = None
    ) -> State:
        """Returns the state with the clean images."""
        broken = tf.zeros(tf.shape(images)[:1], tf.bool)
        state = {"images": images, "labels": labels, "attacked": images, "broken": broken}
        if self.attack.aim:
            state[AIM] = tf.zeros(tf.shape(images)[:1], tf.int32) if targets is None else targets
        return state

    def advance(self, model_fn: ModelFn, state: State, first_step: Tensor, steps: Tensor, seed: Tensor) -> State:
        """Runs the attack once, from a new start. `steps` is always 1."""
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
    """Yields (first step, steps) of each block of an attack of `total` steps."""
    first = 0
    while first < total:
        steps = max(1, total // SMALLEST_BLOCK, min(first, total // LARGEST_BLOCK))
        yield first, min(steps, total - first)
        first += steps


def progress_bar(description: str, total: int, unit: str, verbose: bool) -> tqdm:
    """Returns a progress bar. In a terminal it is written to the standard error."""
    return tqdm(desc=description, total=total, unit=f" {unit}", unit_scale=True, disable=not verbose)


def check_inside(attack: Attack, attacked: np.ndarray, images: np.ndarray, epsilons: np.ndarray | None = None) -> None:
    """Raises `ValueError` if attacked images are not finite or lie outside of the threat model.

    Args:
        attack: the attack that made the images.
        attacked: (examples, ...) attacked images.
        images: (examples, ...) clean images.
        epsilons: (examples,) epsilon of each example. None is the epsilon of the attack.
    """
    ball = attack.threat_model
    broken = ~np.isfinite(attacked).reshape(len(attacked), -1).all(axis=1)
    if broken.any():
        raise ValueError(
            f"{attack.name} returned images that are not finite. The gradients of the classifier may not be finite. "
            f"Received: pixels that are NaN or infinite in {broken.sum()} of {len(attacked)} examples"
        )
    radius = np.full(len(images), ball.epsilon) if epsilons is None else epsilons
    distance = np.asarray(ball.distance(attacked, images))
    farthest = np.argmax(distance - radius)
    low, high = float(attacked.min()), float(attacked.max())
    inside = bool(np.all(distance <= radius * (1 + 1e-4) + TOLERANCE))
    if not (inside and ball.bounds[0] - TOLERANCE <= low and high <= ball.bounds[1] + TOLERANCE):
        raise ValueError(
            f"{attack.name} left its threat model: pixels must be in {list(ball.bounds)}, the distance must be at most "
            f"{radius[farthest]:g}. Received: pixels from {low:g} to {high:g}, distance {distance[farthest]:g}"
        )


def craft(attack: Attack, setup: EvaluationSetup, *, whole: bool = False) -> Iterator[np.ndarray]:
    """Attacks all examples on the source, and yields the attacked images: float32, of the shape of `setup.images`.

    An `IterativeAttack` chooses among its restarts itself and yields one array. Any other attack yields one array per
    restart, because the worst restart depends on the classifier that judges.

    Args:
        attack: the attack.
        setup: the classifiers and the examples.
        whole: let every attack choose among its restarts, so that there is one array. Use it if a judge is random: with
            several arrays, its noise alone might break an example in one of them.
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
    """Returns attacks by name, from an attack or a list of attacks.

    Raises:
        ValueError: if the list is empty, holds something else than attacks, or holds an attack twice; or if the attacks
            have different bounds.
    """
    attacks = [attacks] if isinstance(attacks, Attack) else attacks
    if (
        not isinstance(attacks, list | tuple)
        or not attacks
        or not all(isinstance(attack, Attack) for attack in attacks)
    ):
        raise ValueError(
            "attacks must be an Attack or a list of Attacks. `evaluate` also takes a Suite. "
            f"Received: attacks={attacks!r}"
        )
    names = [attack.name for attack in attacks]
    if len(set(names)) != len(names):
        raise ValueError(f"Each attack must be listed once. Received: {names}")
    bounds = {attack.threat_model.bounds for attack in attacks}
    if len(bounds) > 1:
        raise ValueError(f"All attacks must have the same bounds. Received: bounds {sorted(bounds)}")
    return dict(zip(names, attacks, strict=True))


def check_attack(attack: Any, kind: type[Attack] = Attack) -> None:
    """Raises `ValueError` unless `attack` is of class `kind` and needs no targets."""
    if not isinstance(attack, kind):
        raise ValueError(
            f"attack must be of class {kind.__name__}, such as PGD(Linf(0.3)). "
            f"Received: attack={attack!r} of type {type(attack).__name__}"
        )
    check_takes_no_targets(attack)


def check_takes_no_targets(attack: Attack) -> None:
    """Raises `ValueError` if an attack needs targets. Only `evaluate` has targets."""
    if attack.aim == "given":
        raise ValueError(
            "Only evaluate(..., targets=...) takes attacks towards given targets. Use another `target` in the attack. "
            f"Received: attack={attack!r}"
        )


def check_fits(attacks: Iterable[Attack], setup: EvaluationSetup) -> None:
    """Checks that attacks can run in a setup.

    Args:
        attacks: the attacks.
        setup: the classifiers and the examples.

    Raises:
        ValueError: if an attack needs more classes, images of another shape, or a `compute_dtype` that the source does
            not support.
    """
    for attack in attacks:
        setup.source.model_fn_for(attack.compute_dtype)
        attack.check_fits(setup.images.shape[1:], setup.classes)


def check_restarts(attack: Attack, setup: EvaluationSetup) -> None:
    """Raises `ValueError` if the target is random and the attack has restarts without averaging over passes."""
    if setup.is_random and attack.restarts > 1 and getattr(attack, "eot_iter", 1) == 1:
        raise ValueError(
            f"{setup.target.description} is random at inference: its logits for the same images differ by "
            f"{setup.change:.2g} of the largest between two passes. Each restart would give the noise another chance "
            "to break an example. Average the gradients over several passes, with eot_iter=20 of PGD or APGD, use "
            "AutoAttack's version 'rand', or use restarts=1. "
            f"Received: restarts={attack.restarts} of {attack.name}"
        )


class FirstGradient:
    """Looks whether an attack has a gradient to follow: the gradient of its objective at its start, on the source.

    Looking costs one input gradient per example. The results of each batch are kept, so that `share_without` does not
    repeat the batches of `exists`. An example that is misclassified at the start needs no gradient. Some objectives,
    such as a capped margin, have none there.

    Args:
        attack: an attack that follows gradients.
        setup: the classifiers and the examples.
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
        """Returns whether the attack can move at least one of the examples.

        It is True if an example that needs a gradient has one, or if no example needs one.

        Args:
            examples: numbers of the examples.
        """
        any_stuck = False
        for moved, stuck in self._looks(examples):
            if moved.any():
                return True
            any_stuck |= bool(stuck.any())
        return not any_stuck

    def share_without(self, examples: np.ndarray) -> float:
        """Returns the share of the examples that need a gradient and have none.

        Args:
            examples: numbers of the examples.
        """
        stuck = sum(int(stuck.sum()) for _, stuck in self._looks(examples))
        return stuck / max(len(examples), 1)

    def _looks(self, examples: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields two (batch,) bool arrays: examples that need a gradient and have one, and that lack a needed one."""
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
    """Checks that attacks which follow gradients have a gradient, and returns the `FirstGradient` of each by name.

    An attack without a gradient would not change the images, and any classifier would seem robust.

    Args:
        attacks: attacks by name. Attacks that follow no gradient are not checked.
        setup: the classifiers and the examples.
        together: the attacks form a suite. It is then enough if one of them has a gradient.

    Raises:
        ValueError: if an attack has no gradient for any example; with `together`, if no attack has one.
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
        "Gradient attacks need gradients. The gradient of the classifier must be finite and not zero for at least one "
        "example at the start of the attack. Otherwise the attack would not change the images, and the classifier "
        "would seem robust. If the classifier is not differentiable (quantised inputs, rounding, LiteRT, code inside "
        "tf.py_function), use attacks without gradients (Square, SPSA, HopSkipJump), or attack a differentiable "
        "classifier with `source=`. If the logits are so large that the loss is flat in float32, use "
        "objective='margin' or 'dlr'. "
        f"Received: {setup.source.description}, attacked by {'; '.join(without)}"
    )


def loss_gradient(model_fn: ModelFn, points: Tensor, labels: Tensor) -> Tensor:
    """Returns the gradient of each example's cross-entropy in its image, of the shape of `points`.

    Args:
        model_fn: maps images to logits (batch, classes).
        points: (batch, height, width, channels) float32.
        labels: sparse (batch,) or one-hot (batch, classes).

    Raises:
        ValueError: if the classifier is not differentiable in its images.
    """
    return value_and_gradient(lambda points: cross_entropy(labels, model_fn(points)), points)[1]


def is_usable(gradient: Tensor) -> Tensor:
    """Returns bool (batch,): whether each gradient of (batch, ...) is finite and not zero everywhere."""
    gradient = flatten(gradient)
    return tf.reduce_all(tf.math.is_finite(gradient), axis=1) & tf.reduce_any(gradient != 0, axis=1)

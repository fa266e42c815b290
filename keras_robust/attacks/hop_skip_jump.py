"""HopSkipJump: an attack that sees only the predicted class.

    attack = HopSkipJump(L2(1.5), queries=5000)
    report = kr.evaluate(remote_classifier, test, attack)  # images to logits, or to one-hot rows of predicted classes

It walks along the boundary between the label and the other classes, closer and closer to the image.
"""

import dataclasses
import math
from typing import Any, ClassVar

import keras
import tensorflow as tf

from keras_robust.attacks.attack import IterativeAttack, ModelFn, State
from keras_robust.attacks.score_based import check_options, choose
from keras_robust.core import ThreatModel, seeds
from keras_robust.core.objectives import as_sparse
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.core.threat_models import L2, flatten, per_example

TRIALS = 100
"""Number of random images that are tried as a start."""

GRAINS = 6
"""Widths of their blocks of equal pixels, in turn. For noise of single pixels, most networks see one class."""

FIRST_DELTA = 0.1
"""Distance of the probes from the boundary in the first round, as a share of the pixel range (the authors' code)."""

MOST_SAMPLES = 10_000
"""Largest number of samples in one estimate of a direction (the authors' code)."""

MOST_HALVINGS = 22
"""Largest number of halvings of an interval with float32 ends."""

TINY = 1e-6
"""Smallest distance of the probes, as a share of the pixel range. Below it, float32 loses the difference."""

STEP_HALVINGS = 20
"""A step is halved at most this often until it ends at a misclassified image. Otherwise the round has no step."""


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class HopSkipJump(IterativeAttack):
    """HopSkipJump (Chen, Jordan & Wainwright, 2020, algorithm 2), untargeted. It uses only the predicted class.

    Bisection from a random image of another class leads to the boundary. Each round then estimates the direction into
    the other classes from the classes of random points nearby, makes a step along it (halved until it ends at a
    misclassified image), and bisects back to the boundary. Use it for black boxes that return no scores. With scores,
    `Square` finds more with fewer queries; with gradients, use attacks that follow them.

    The attack gives an example up when its queries are spent, and stops when it is misclassified inside the ball. If it
    found no such point, it returns the projection of the closest misclassified image, which is classified correctly.

    The random points of a round are the same for the whole batch. Their number is rounded to whole passes. The authors'
    code starts only from noise of single pixels. Here coarser noise is tried as well, in turn. If none of 100 random
    images is misclassified, the image stays as it is.

    Args:
        threat_model: `Linf` or `L2`.
        queries: largest number of classified images per example, at least 1.
        samples: random points of the first round. Round t has sqrt(t) times as many, at most 10,000.
        samples_per_pass: random points per example in one forward pass. It changes memory, and the size of the batches
            that a remote classifier receives.
        compute_dtype: "bfloat16", "float16", "float32" or "auto": see `PGD`.

    Raises:
        ValueError: if an argument is out of its range. The message says what was received.
    """

    threat_model: ThreatModel
    queries: int = 5000
    samples: int = 100
    samples_per_pass: int = 20
    compute_dtype: str | None = None
    follows_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self, ("linf", "l2"), ("queries", "samples", "samples_per_pass"), ())

    @property
    def name(self) -> str:
        """Such as "HopSkipJump-5000 (L2 1.5)". It contains every setting that is not the default."""
        parts = [str(self.threat_model)]
        if self.samples != 100:
            parts.append(f"{self.samples} samples")
        if self.samples_per_pass != 20:
            parts.append(f"{self.samples_per_pass} samples per pass")
        if self.resolved_compute_dtype:
            parts.append(self.resolved_compute_dtype)
        return f"HopSkipJump-{self.queries} ({', '.join(parts)})"

    @property
    def total_steps(self) -> int:
        """Largest number of rounds. An example whose queries are spent takes no part in the last ones."""
        spent, rounds = 0, 0
        while spent < self.queries:
            rounds += 1
            spent += min(round(self.samples * math.sqrt(rounds)), MOST_SAMPLES)
        return rounds

    def start(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor, targets: Tensor | None = None
    ) -> State:
        """Returns the state at the boundary, found from a random image: see `IterativeAttack.start`.

        Raises:
            ValueError: if targets are given.
        """
        if targets is not None:
            raise ValueError(f"{self.name} is untargeted: give no targets. Received: targets={targets!r}")
        images, labels = tf.convert_to_tensor(images), as_sparse(labels)
        low, high = self.threat_model.bounds

        def attempt(trial: Tensor, state: State) -> tuple[Tensor, State]:
            noise = low + (high - low) * seeds.uniform(images.shape[1:], seeds.fold(seed, trial))
            noise = tf.cast(coarsen(noise, 2 ** (trial % GRAINS)), images.dtype)
            points = tf.zeros_like(images) + noise
            found = ~state["found"] & self._is_wrong(model_fn, points, labels)
            return trial + 1, {
                "points": tf.where(per_example(found, images), points, state["points"]),
                "queries": state["queries"] + tf.cast(~state["found"], tf.int32),
                "found": state["found"] | found,
            }

        none = tf.zeros(tf.shape(images)[:1], tf.int32)
        wrong = self._is_wrong(model_fn, images, labels)
        state = {"points": images, "queries": none + 1, "found": wrong}
        _, state = tf.while_loop(
            lambda trial, state: (trial < TRIALS) & ~tf.reduce_all(state["found"]), attempt, (tf.constant(0), state)
        )
        found = state.pop("found")
        state = {**state, "images": images, "labels": labels}
        state["queries"] = tf.where(found, state["queries"], self.queries)
        state["far"] = self.threat_model.distance(state["points"], images)
        state["points"], halvings = self._bisect(model_fn, state, state["points"], blend)
        state["queries"] += halvings
        return {**state, "broken": found & self._is_inside(state)}

    def advance(self, model_fn: ModelFn, state: State, first_step: Tensor, steps: Tensor, seed: Tensor) -> State:
        """Returns the state after `steps` more rounds: see `IterativeAttack.advance`."""

        def more(done: Tensor, state: State) -> Tensor:
            return (done < steps) & tf.reduce_any(self._takes_part(state, first_step + done + 1))

        def step(done: Tensor, state: State) -> tuple[Tensor, State]:
            number = first_step + done + 1
            moved = self._round(model_fn, state, number, seeds.fold(seed, number))
            return done + 1, choose(self._takes_part(state, number), moved, state)

        return tf.while_loop(more, step, (tf.constant(0), dict(state)))[1]

    def finish(self, state: State) -> Tensor:
        """Returns the closest misclassified image, or its projection onto the ball."""
        return self.threat_model.project(state["points"], state["images"])

    def _is_wrong(self, model_fn: ModelFn, points: Tensor, labels: Tensor) -> Tensor:
        """Returns whether the predicted class is not the label, (batch,) bool. Outputs that are not finite count."""
        outputs = model_fn(points)
        finite = tf.reduce_all(tf.math.is_finite(outputs), axis=1)
        wrong = ~finite | (tf.argmax(outputs, axis=1, output_type=tf.int32) != labels)
        return tf.ensure_shape(wrong, points.shape[:1])

    def _is_inside(self, state: State) -> Tensor:
        return self.threat_model.distance(state["points"], state["images"]) <= self.threat_model.epsilon

    def _takes_part(self, state: State, number: Tensor) -> Tensor:
        """Returns whether an example is not broken and has enough queries for a round, (batch,) bool."""
        needed = self._passes(number) * self.samples_per_pass + 1 + self._halvings(state["images"])
        return ~state["broken"] & (state["queries"] + needed <= self.queries)

    def _passes(self, number: Tensor) -> Tensor:
        """Returns the number of forward passes of an estimate in round `number` (from 1)."""
        samples = tf.minimum(self.samples * tf.sqrt(tf.cast(number, tf.float32)), float(MOST_SAMPLES))
        return tf.maximum(tf.cast(tf.round(samples / self.samples_per_pass), tf.int32), 1)

    def _round(self, model_fn: ModelFn, state: State, number: Tensor, seed: Tensor) -> State:
        """Returns the state after one round: estimate, step, bisection."""
        images, labels, points = state["images"], state["labels"], state["points"]
        distance = self.threat_model.distance(points, images)
        direction = self._estimate(model_fn, state, number, seed)
        ascent = self.threat_model.steepest_ascent(direction)

        def halve(tries: Tensor, length: Tensor, found: Tensor, queries: Tensor) -> tuple[Tensor, ...]:
            candidates = self.threat_model.clip(points + per_example(length, images) * ascent)
            queries += tf.cast(~found, tf.int32)
            found |= self._is_wrong(model_fn, candidates, labels)
            return tries + 1, tf.where(found, length, length / 2.0), found, queries

        first = distance / tf.sqrt(tf.cast(number, distance.dtype))
        nothing = tf.zeros_like(state["broken"])
        _, length, found, queries = tf.while_loop(
            lambda tries, _, found, queries: (tries < STEP_HALVINGS) & ~tf.reduce_all(found | state["broken"]),
            halve,
            (tf.constant(0), first, nothing, state["queries"]),
        )
        candidates = self.threat_model.clip(points + per_example(length, images) * ascent)
        candidates = tf.where(per_example(found, images), candidates, points)
        far = self.threat_model.distance(candidates, images)
        candidates, halvings = self._bisect(model_fn, state, candidates, self._towards)
        closer = self.threat_model.distance(candidates, images) < distance
        moved = {
            **state,
            "points": tf.where(per_example(closer, images), candidates, points),
            "far": tf.where(closer, far, state["far"]),
            "queries": queries + self._passes(number) * self.samples_per_pass + halvings,
        }
        return {**moved, "broken": self._is_inside(moved)}

    def _estimate(self, model_fn: ModelFn, state: State, number: Tensor, seed: Tensor) -> Tensor:
        """Returns the direction in which images become misclassified, estimated at the boundary (equation 16).

        The distance of the probes is proportional to `far`, the distance from which bisection came to the boundary. So
        is the precision of bisection.
        """
        points, labels, count = state["points"], state["labels"], self.samples_per_pass
        shape, size, (low, high) = points.shape[1:], points[0].shape.num_elements(), self.threat_model.bounds
        delta = tf.where(number == 1, FIRST_DELTA * (high - low), state["far"] / size)
        delta = tf.reshape(tf.maximum(delta, TINY * (high - low)), (-1, 1, 1))
        unit = L2(1.0, self.threat_model.bounds).steepest_ascent

        def probe(index: Tensor, of_wrong: Tensor, of_all: Tensor, share: Tensor) -> tuple[Tensor, ...]:
            own = seeds.fold(seed, index)
            if self.threat_model.norm == "l2":
                draws = seeds.normal((count, *shape), own)
            else:
                draws = 2.0 * seeds.uniform((count, *shape), own) - 1.0
            steps = tf.reshape(delta * flatten(tf.cast(unit(draws), points.dtype)), (-1, count, *shape))
            samples = self.threat_model.clip(points[:, None] + steps)
            wrong = self._is_wrong(model_fn, tf.reshape(samples, (-1, *shape)), tf.repeat(labels, count))
            sign = tf.reshape(tf.where(wrong, 1.0, -1.0), (-1, count))
            moves = tf.reshape(samples - points[:, None], (-1, count, size)) / delta
            of_wrong += tf.reduce_sum(sign[:, :, None] * moves, axis=1)
            return index + 1, of_wrong, of_all + tf.reduce_sum(moves, axis=1), share + tf.reduce_mean(sign, axis=1)

        passes = self._passes(number)
        zeros = flatten(tf.zeros_like(points))
        loop = (tf.constant(0), zeros, zeros, tf.zeros_like(zeros[:, 0]))
        _, of_wrong, of_all, share = tf.while_loop(lambda index, *_: index < passes, probe, loop)
        share = (share / tf.cast(passes, share.dtype))[:, None]
        # If all are of one kind, subtracting the mean would leave 0.
        direction = tf.where(tf.abs(share) == 1.0, of_wrong, of_wrong - share * of_all)
        return tf.reshape(direction, tf.shape(points))

    def _halvings(self, images: Tensor) -> int:
        """Returns the number of halvings of an interval: down to d^-3/2 (L2) or d^-2 (Linf), d numbers per image."""
        power = 1.5 if self.threat_model.norm == "l2" else 2.0
        return min(math.ceil(power * math.log2(math.prod(images.shape[1:]))), MOST_HALVINGS)

    def _towards(self, images: Tensor, points: Tensor, share: Tensor) -> Tensor:
        """Returns the points moved towards the images until this share of their distance is left."""
        if self.threat_model.norm == "l2":
            return blend(images, points, share)
        radius = per_example(share * self.threat_model.distance(points, images), images)
        return tf.clip_by_value(points, images - radius, images + radius)

    def _bisect(self, model_fn: ModelFn, state: State, points: Tensor, towards: Any) -> tuple[Tensor, int]:
        """Returns misclassified images at the boundary, between images and misclassified points; and the queries."""
        images, labels = state["images"], state["labels"]
        halvings = self._halvings(images)

        def halve(index: Tensor, right: Tensor, wrong: Tensor) -> tuple[Tensor, ...]:
            middle = (right + wrong) / 2.0
            is_wrong = self._is_wrong(model_fn, towards(images, points, middle), labels)
            return index + 1, tf.where(is_wrong, right, middle), tf.where(is_wrong, middle, wrong)

        share = tf.zeros_like(flatten(images)[:, 0])
        _, _, wrong = tf.while_loop(
            lambda index, *_: index < halvings, halve, (tf.constant(0), share, tf.ones_like(share))
        )
        return towards(images, points, wrong), halvings


def blend(images: Tensor, points: Tensor, share: Tensor) -> Tensor:
    """Returns images + share (points - images), and exactly the points where the share is 1."""
    share = per_example(share, images)
    return tf.where(share == 1.0, points, images + share * (points - images))


def coarsen(image: Tensor, grain: Tensor) -> Tensor:
    """Returns the image in blocks, `grain` pixels high and wide. Each block has the value of its first pixel."""
    for axis in range(min(2, len(image.shape))):
        places = tf.range(image.shape[axis])
        image = tf.gather(image, places - places % grain, axis=axis)
    return image

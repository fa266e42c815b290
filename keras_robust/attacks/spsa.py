"""SPSA: gradient ascent with a gradient that is estimated from logits.

    attack = SPSA(Linf(0.3), steps=100, samples=128)
    x_adv = attack(as_model_fn(classifier), images, labels, seed=0)

A step costs `samples` forward passes per example for the estimate and one for the new point.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks.attack import ModelFn, State
from keras_robust.attacks.score_based import ScoreBasedAttack, check_options
from keras_robust.core import ThreatModel, seeds
from keras_robust.core.objectives import margin
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE

BETA_1, BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-8
"""Constants of Adam (Kingma & Ba, 2015, section 2)."""

PAIRS_PER_PASS = 8
"""Default limit of antithetic pairs of one example in one forward pass."""


def estimate_gradient(
    function: Callable[[Tensor], Tensor], points: Tensor, directions: Tensor, delta: float, pairs_per_pass: int
) -> Tensor:
    """Returns mean_s s (f(x + delta s) - f(x - delta s)) / (2 delta) over directions s (Spall, 1992, equation 2.2).

    For a linear f and random signs, its expectation is the gradient.

    Args:
        function: maps (batch * 2 * pairs_per_pass, ...) images to values; those of one example follow each other.
        points: x, (batch, ...).
        directions: s, (pairs, ...) of -1 and 1, the same for all points.
        delta: distance of the samples in each coordinate, in the units of the images.
        pairs_per_pass: directions per call of `function`; a divisor of their number.

    Returns:
        The estimate, of the shape of `points`.
    """
    shape = points.shape[1:]
    count = directions.shape[0]
    directions = tf.reshape(directions, (count // pairs_per_pass, pairs_per_pass, *shape))

    def add(index: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        some = tf.gather(directions, index)
        samples = points[:, None] + delta * tf.concat([some, -some], axis=0)
        values = tf.reshape(function(tf.reshape(samples, (-1, *shape))), (-1, 2, pairs_per_pass))
        slopes = (values[:, 0] - values[:, 1]) / (2.0 * delta)
        return index + 1, total + tf.tensordot(slopes, some, 1)

    loop = (tf.constant(0), tf.zeros_like(points))
    return tf.while_loop(lambda index, _: index < count // pairs_per_pass, add, loop)[1] / count


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class SPSA(ScoreBasedAttack):
    """Simultaneous perturbation stochastic approximation with Adam (Uesato et al., 2018; Spall, 1992).

    It maximises the margin from a uniform random point of the ball. The random signs of a step are the same for the
    whole batch, so the result for an example does not depend on the others. Samples may leave ball and pixel range by
    `delta`, as in the published code. The points never do.

    Args:
        threat_model: `Linf` or `L2`.
        steps: number of steps, at least 1.
        samples: images classified per estimate. They come in antithetic pairs, so the number must be even.
        delta: distance of a sample from the point in each pixel, in the units of the images.
        learning_rate: learning rate of Adam, in the units of the images.
        pairs_per_pass: antithetic pairs of each example in one forward pass, a divisor of samples / 2. It changes
            memory and speed, not the result. None is the largest divisor up to 8.
        restarts: independent starts, at least 1.
        compute_dtype: "bfloat16", "float16" or "auto" runs the passes in low precision: see `PGD`. Differences
            of logits `delta` apart then vanish in rounding; choose a larger `delta`.

    Raises:
        ValueError: if an argument is out of its range. The message says what was received.
    """

    threat_model: ThreatModel
    steps: int = 100
    samples: int = 128
    delta: float = 0.01
    learning_rate: float = 0.01
    pairs_per_pass: int | None = None
    restarts: int = 1
    compute_dtype: str | None = None

    def __post_init__(self) -> None:
        check_options(self, ("linf", "l2"), ("steps", "samples", "restarts"), ("delta", "learning_rate"))
        if self.samples % 2:
            raise ValueError(f"samples must be even, because they come in pairs. Received: samples={self.samples}")
        per_pass: Any = self.pairs_per_pass
        if per_pass is None:
            return
        if isinstance(per_pass, bool) or not isinstance(per_pass, int) or per_pass < 1 or self.samples // 2 % per_pass:
            raise ValueError(
                "pairs_per_pass must be a divisor of samples / 2, or None. "
                f"Received: pairs_per_pass={per_pass!r} and samples={self.samples}"
            )

    @property
    def steps_per_run(self) -> int:
        """The number of steps after each start."""
        return self.steps

    @property
    def resolved_pairs_per_pass(self) -> int:
        """As given, or the largest divisor of samples / 2 up to 8."""
        pairs = self.samples // 2
        return self.pairs_per_pass or max(n for n in range(1, PAIRS_PER_PASS + 1) if pairs % n == 0)

    @property
    def name(self) -> str:
        """Such as "SPSA-100 (Linf 0.3, 128 samples)". It contains every setting that is not the default."""
        parts = [str(self.threat_model), f"{self.samples} samples"]
        if self.delta != 0.01:
            parts.append(f"delta {self.delta:.4g}")
        if self.learning_rate != 0.01:
            parts.append(f"learning rate {self.learning_rate:.4g}")
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        if self.resolved_compute_dtype:
            parts.append(self.resolved_compute_dtype)
        return f"SPSA-{self.steps} ({', '.join(parts)})"

    def _first_points(self, images: Tensor, seed: Tensor) -> State:
        points = self.threat_model.random_point(images, seed)
        return {"points": points, "mean": tf.zeros_like(points), "square": tf.zeros_like(points)}

    def _step(self, model_fn: ModelFn, state: State, number: Tensor, seed: Tensor) -> State:
        """Returns the entries that one step of Adam along the estimate, and the projection, change."""
        images, points, labels = state["images"], state["points"], state["labels"]
        per_pass = self.resolved_pairs_per_pass

        def value(samples: Tensor) -> Tensor:
            return margin(tf.repeat(labels, 2 * per_pass), model_fn(samples))

        bits = seeds.integers((self.samples // 2, *images.shape[1:]), seed, 2)
        directions = 2.0 * tf.cast(bits, images.dtype) - 1.0
        gradient = estimate_gradient(value, points, directions, self.delta, per_pass)
        mean = BETA_1 * state["mean"] + (1.0 - BETA_1) * gradient
        square = BETA_2 * state["square"] + (1.0 - BETA_2) * tf.square(gradient)
        count = tf.cast(number + 1, images.dtype)
        unbiased_mean, unbiased_square = mean / (1.0 - BETA_1**count), square / (1.0 - BETA_2**count)
        step = self.learning_rate * unbiased_mean / (tf.sqrt(unbiased_square) + ADAM_EPSILON)
        points = self.threat_model.project(points + step, images)
        return {"points": points, "mean": mean, "square": square, "value": margin(labels, model_fn(points))}

"""The loss around images along two directions. It shows whether the loss grows along the gradient.

surface = kr.evaluation.loss_surface(model, test, 8 / 255)
print(surface["verdict"])
"""

import time
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robust.attacks.attack import by_batch
from keras_robust.core import L1, L2, Linf, ThreatModel, seeds
from keras_robust.core.checks import check_integer, check_positive
from keras_robust.core.objectives import cross_entropy
from keras_robust.core.seeds import Tensor
from keras_robust.core.threat_models import per_example
from keras_robust.evaluation.attack_run import loss_gradient
from keras_robust.evaluation.inputs import EvaluationSetup, prepare_evaluation

NORMS = {"linf": Linf, "l2": L2, "l1": L1}
AXES = {"gradient_random": ("gradient", "random"), "random_random": ("random", "random")}
ROUNDING = 1e-5
"""A loss counts as falling only if it falls by more than this share of the largest loss. Less is float32 rounding."""


def loss_surface(
    model: Any,
    dataset: Any,
    radius: float,
    *,
    norm: str = "linf",
    axes: str = "gradient_random",
    points: int = 21,
    examples: int = 4,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 128,
    seed: int = 0,
    compile_attack: bool | str = "auto",
) -> dict[str, Any]:
    """Computes the cross-entropy at x + a u + b v for a and b from -radius to radius (Shafahi et al., 2019, figure 3).

    u is the direction of unit norm in which the loss grows fastest at x (the signs of the gradient for "linf"). v has
    random signs and unit norm, and is the same for all examples. With axes="random_random", u is random, too. As in the
    authors' code, the points are not clipped to the pixel range.

    Args:
        model: see `evaluate`.
        dataset: see `evaluate`.
        radius: the largest a and b, in the units of the images.
        norm: "linf", "l2" or "l1".
        axes: "gradient_random" or "random_random".
        points: number of offsets per direction, an odd number of at least 3. The middle point is the image itself.
        examples: number of examples, from the start of the data set.
        bounds: smallest and largest pixel value of the images.
        batch_size: number of points at a time, a multiple of the number of replicas.
        seed: seed of the random directions, in [0, 2**31).
        compile_attack: see `evaluate`.

    Returns:
        A dictionary of plain Python values: `kind` ("loss_surface"), `axes` (the names of the two directions), `norm`,
        `radius`, `first` and `second` (the offsets a and b), `losses` (in nats, nested by example, a and b), `labels`,
        `verdict` (a sentence) and `seconds`.

    Raises:
        ValueError: if an argument is not as described.
    """
    begin = time.perf_counter()
    for name, value, choices in (("norm", norm, NORMS), ("axes", axes, AXES)):
        if value not in choices:
            raise ValueError(f"{name} must be one of {sorted(choices)}. Received: {name}={value!r}")
    check_integer("examples", examples)
    check_integer("points", points, 3)
    if points % 2 == 0:
        raise ValueError(f"points must be odd, so that the image is the middle point. Received: points={points}")
    check_positive("radius", radius)
    ball = NORMS[norm](radius, bounds)
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "compile_attack": compile_attack}
    setup = prepare_evaluation(model, dataset, bounds, **options, verbose=False).first(examples)
    offsets = np.linspace(-radius, radius, points, dtype=np.float32)
    losses = _losses(setup, ball, axes, offsets)
    return {
        "kind": "loss_surface",
        "axes": list(AXES[axes]),
        "norm": norm,
        "radius": float(radius),
        "first": offsets.tolist(),
        "second": offsets.tolist(),
        "losses": losses.tolist(),
        "labels": setup.sparse_labels.tolist(),
        "verdict": _judge_gradient(losses) if axes == "gradient_random" else _judge_random(losses, radius),
        "seconds": time.perf_counter() - begin,
    }


def _losses(setup: EvaluationSetup, ball: ThreatModel, axes: str, offsets: np.ndarray) -> np.ndarray:
    """Returns the cross-entropy at each point, float32 (examples, offsets, offsets)."""
    model_fn = setup.target.model_fn_for(None)
    seed = seeds.as_seed(setup.seed)
    shape = setup.images.shape[1:]
    second = _random_direction(ball, shape, seeds.fold(seed, 1))
    if axes == "gradient_random":
        first = _gradient_directions(setup, ball)
    else:
        first = np.repeat(_random_direction(ball, shape, seeds.fold(seed, 0))[None], len(setup.images), axis=0)

    def run(
        batch: tuple[Tensor, Tensor], image: Tensor, label: Tensor, first: Tensor, second: Tensor, seed: Tensor
    ) -> Tensor:
        del seed
        along_first, along_second = (per_example(offset, image[None]) for offset in batch)
        logits = model_fn(image + along_first * first + along_second * second)
        return cross_entropy(tf.repeat(label, tf.shape(logits)[0]), logits)

    run_batch = setup.batch_function(run)
    grid = tuple(part.reshape(-1) for part in np.meshgrid(offsets, offsets, indexing="ij"))

    def surface(image: np.ndarray, label: np.ndarray, first: np.ndarray) -> np.ndarray:
        return by_batch(lambda batch, _: run_batch(batch, image, label, first, second, seed), grid, setup.batch_size)

    rows = [surface(*example) for example in zip(setup.images, setup.sparse_labels, first, strict=True)]
    return np.reshape(rows, (-1, len(offsets), len(offsets)))


def _random_direction(ball: ThreatModel, shape: tuple[int, ...], seed: Tensor) -> np.ndarray:
    """Returns random signs, scaled to unit norm."""
    signs = tf.where(seeds.uniform((1, *shape), seed) < 0.5, -1.0, 1.0)
    return ball.steepest_ascent(signs)[0].numpy()


def _gradient_directions(setup: EvaluationSetup, ball: ThreatModel) -> np.ndarray:
    """Returns for each example the direction of unit norm in which its loss grows fastest, shaped like the images."""
    model_fn = setup.target.model_fn_for(None)

    def run(batch: tuple[Tensor, Tensor], seed: Tensor) -> Tensor:
        del seed
        images, labels = batch
        return ball.steepest_ascent(loss_gradient(model_fn, images, labels))

    run_batch, seed = setup.batch_function(run), seeds.as_seed(setup.seed)
    values = (setup.images, setup.sparse_labels)
    return by_batch(lambda batch, _: run_batch(batch, seed), values, setup.batch_size)


def _judge_gradient(losses: np.ndarray) -> str:
    """Says whether the loss changes most along the gradient. The authors take this as a sign of unmasked gradients."""
    middle = losses.shape[1] // 2
    along_gradient, along_random = losses[:, :, middle], losses[:, middle]
    leads = int((_largest_change(along_gradient) > _largest_change(along_random)).sum())
    ahead = along_gradient[:, middle:]
    rises = int((np.diff(ahead, axis=1) >= -ROUNDING * np.abs(ahead).max(axis=1, keepdims=True)).all(axis=1).sum())
    count = len(losses)
    opening = "No sign of masked gradients" if leads == count else "Gradients may be masked"
    return (
        f"{opening}: the loss changes more along the gradient than along a random direction for {leads} of {count} "
        f"examples; forward along the gradient it never falls for {rises} of {count}."
    )


def _judge_random(losses: np.ndarray, radius: float) -> str:
    middle = losses.shape[1] // 2
    change = np.abs(losses - losses[:, middle : middle + 1, middle : middle + 1]).max()
    return f"Along two random directions the loss changes by at most {change:.3g} nats up to the radius {radius:.4g}."


def _largest_change(lines: np.ndarray) -> np.ndarray:
    """Returns the largest difference from the middle of each line."""
    middle = lines.shape[1] // 2
    return np.abs(lines - lines[:, middle : middle + 1]).max(axis=1)

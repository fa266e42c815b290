"""What the checks for gradient masking measure, without any verdict."""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robust.attacks import FGSM, PGD, Attack, Square
from keras_robust.attacks.attack import ModelFn, with_whole_gradient
from keras_robust.core import ThreatModel, seeds
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import replace_unchecked
from keras_robust.core.threat_models import flatten
from keras_robust.evaluation.execution import BatchFunction, by_batch, compile_batch_function
from keras_robust.evaluation.gradients import is_usable, loss_gradient
from keras_robust.evaluation.runner import run_attack
from keras_robust.evaluation.setting import Setting
from keras_robust.evaluation.subject import Subject

STEPS, LONG_STEPS = 40, 400
RESTARTS = 5
QUERIES = 1000
PROBABILITY_TOLERANCE = 1e-3
MARGIN = 0.01
"""A difference of accuracies of at most so much may be the luck of random starts. The shattered networks of Bhat et al.
(2018, table 1) lose 40 to 71 points to a transferred attack."""
DEVIATIONS = 2
"""So many standard deviations a difference must be above 0. On the same examples, b of them broken by one attack alone
and w by the other alone, that of b - w is at most sqrt(b + w) (McNemar, 1947)."""
FEWEST = 0.1
"""Shares of fewer survivors, in examples, are noise."""
NEARBY = 0.1
"""How far away gradients are compared, as a share of epsilon."""


def connected(subject: Subject) -> Subject:
    """Returns the same classifier, whose gradient is zero where it has none: attacks would refuse it otherwise."""

    def model_fn_for(compute_dtype: str | None) -> ModelFn:
        model_fn = with_whole_gradient(subject.model_fn_for(compute_dtype))
        return lambda images: model_fn(images) + 0.0 * tf.reduce_sum(flatten(images), axis=1, keepdims=True)

    return dataclasses.replace(subject, model_fn_for=model_fn_for)


class Outcomes:
    """Which examples withstand which attack, each measured when it is first asked for.

    Args:
        setting: white box.
        ball: the threat model.
    """

    def __init__(self, setting: Setting, ball: ThreatModel) -> None:
        self._setting = setting
        long_step = 2.5 * ball.epsilon / STEPS or None  # at epsilon 0 no step has a size
        self._attacks: dict[str, Attack] = {
            "one_step": FGSM(ball),
            "pgd": PGD(ball, steps=STEPS),
            "long_pgd": PGD(ball, steps=LONG_STEPS, step_size=long_step),
            "restarts": PGD(ball, steps=STEPS, restarts=RESTARTS),
            "random_target": PGD(ball, steps=STEPS, target="random"),
            "square": Square(ball, queries=QUERIES),
        }
        self._robust = functools.cache(self._measure)

    def robust(self, name: str) -> np.ndarray:
        """Returns which examples withstand an attack, (examples,) bool; "more_restarts" follows on "restarts"."""
        return self._robust(name)

    @property
    def has_squares(self) -> bool:
        """Whether the images have a height and a width, as Square Attack needs."""
        return self._setting.images.ndim > 2

    def accuracy(self, name: str) -> float:
        """Returns the share of examples that withstand an attack."""
        return float(self.robust(name).mean())

    def share_found_only_by(self, name: str, other: str) -> float:
        """Returns the share of examples that one attack breaks and the other does not."""
        return float((self.robust(other) & ~self.robust(name)).mean())

    def _measure(self, name: str) -> np.ndarray:
        setting, ranks = self._setting, self._setting.first_ranks
        if name == "more_restarts":
            name, ranks = "restarts", np.where(self._robust("restarts"), ranks, setting.classes)
            setting = dataclasses.replace(setting, seed=(setting.seed + 1) % 2**31)
        return run_attack(self._attacks[name], setting, ranks).robust


def is_stronger(attack: np.ndarray, reference: np.ndarray) -> bool:
    """Returns whether an attack breaks more examples than another one, by more than chance.

    Args:
        attack: (examples,) bool: which withstand it.
        reference: (examples,) bool: which withstand the other one.
    """
    difference = int(reference.sum()) - int(attack.sum())
    return bool(difference > MARGIN * len(attack) and difference >= DEVIATIONS * np.sqrt((attack != reference).sum()))


def least_difference(attack: np.ndarray, reference: np.ndarray) -> float:
    """Returns the difference of two accuracies from which `is_stronger` takes it for more than chance."""
    return max(MARGIN, DEVIATIONS * float(np.sqrt((attack != reference).sum())) / len(attack))


def largest_chance(examples: int) -> float:
    """Returns the largest share of so many examples that may be chance where none is expected: a point, or one."""
    return max(MARGIN, 1 / examples)


def share_of_survivors(broken: float, left: float) -> float:
    """Returns which part of the share `left` of the examples is `broken`, with at least 10 % as the denominator."""
    return broken / max(left, FEWEST)


def unbounded_accuracy(setting: Setting, ball: ThreatModel) -> float:
    """Returns the share that withstands PGD on the margin where every image of the pixel range is allowed."""
    everywhere = dataclasses.replace(ball, epsilon=ball.reach(setting.images[0].size))
    attack = PGD(everywhere, steps=100, objective="margin")
    setting = dataclasses.replace(setting, epsilons=None)
    return float(run_attack(attack, setting, setting.first_ranks).robust.mean())


def withstand_transfer(setting: Setting, ball: ThreatModel) -> np.ndarray:
    """Returns which examples withstand PGD crafted on the source of a black-box setting, (examples,) bool."""
    return run_attack(PGD(ball, steps=STEPS), setting, setting.first_ranks).robust


def share_of_probabilities(setting: Setting) -> float:
    """Returns the share of outputs that are not negative and add up to 1."""
    outputs = setting.clean_logits.astype(np.float64)
    like = (outputs.min(axis=1) >= 0) & (np.abs(outputs.sum(axis=1) - 1) <= PROBABILITY_TOLERANCE)
    return float(like.mean())


def share_without_gradient(setting: Setting, ball: ThreatModel) -> float:
    """Returns the share of examples whose input gradient at a random start is all zero, or not finite."""
    model_fn = setting.target.model_fn_for(None)

    def run(batch: tuple[Tensor, ...], seed: Tensor) -> Tensor:
        images, labels, radius = batch
        start = replace_unchecked(ball, epsilon=radius).random_point(images, seed)
        return is_usable(loss_gradient(model_fn, start, labels))

    return float(1 - _by_batch(run, setting, _with_radii(setting, ball)).mean())


def gradient_alignment(setting: Setting, ball: ThreatModel) -> float:
    """Returns the mean cosine between the input gradients at an image and at a random point near it."""
    model_fn = setting.target.model_fn_for(None)

    def run(batch: tuple[Tensor, ...], seed: Tensor) -> Tensor:
        images, labels, radius = batch
        here = flatten(loss_gradient(model_fn, images, labels))
        near = replace_unchecked(ball, epsilon=NEARBY * radius).random_point(images, seed)
        there = flatten(loss_gradient(model_fn, near, labels))
        lengths = tf.norm(here, axis=1) * tf.norm(there, axis=1)
        return tf.math.divide_no_nan(tf.reduce_sum(here * there, axis=1), lengths)

    return float(_by_batch(run, setting, _with_radii(setting, ball)).mean())


def _with_radii(setting: Setting, ball: ThreatModel) -> tuple[np.ndarray, ...]:
    """Returns images, sparse labels and the epsilon of each."""
    radii = np.full(len(setting.images), ball.epsilon, np.float32) if setting.epsilons is None else setting.epsilons
    return setting.images, setting.sparse_labels, radii


def _by_batch(function: BatchFunction, setting: Setting, values: Any) -> np.ndarray:
    compiled = compile_batch_function(function, setting.strategy, setting.compile_attack)
    seed = seeds.as_seed(setting.seed)
    return by_batch(lambda batch, index: compiled(batch, seeds.fold(seed, index)), values, setting.batch_size)

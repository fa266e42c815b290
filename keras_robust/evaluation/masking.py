"""Checks that say when a robust accuracy cannot be trusted, because attacks were fooled (gradient masking).

`run_checks` lists them: a check is a measurement, a threshold and a verdict in words. The measurements are the last
functions of this file.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robust.attacks import FGSM, PGD, Attack, Square
from keras_robust.attacks.attack import BatchFunction, ModelFn, by_batch, with_whole_gradient
from keras_robust.core import ThreatModel, seeds
from keras_robust.core.checks import check_integer
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import replace_unchecked
from keras_robust.core.threat_models import flatten
from keras_robust.evaluation.attack_run import FEW_WITHOUT_GRADIENT, is_usable, loss_gradient, run_attack
from keras_robust.evaluation.inputs import DETERMINISTIC, EvaluationSetup, LoadedClassifier, prepare_evaluation
from keras_robust.reports.formatting import percent

EXAMPLES = 200
"""So many of the first examples are enough for a difference of 5 points."""

FEW_SURVIVORS = 0.1
"""Of what one attack leaves, another one may find so much: Square finds 2 to 4 % of what gradient attacks leave of
adversarially trained classifiers of digits, and half of what they leave of logit squeezing."""

FEW_LEFT_TO_SQUARE = 0.05
"""Of what AutoAttack's attacks with gradients leave, so much may be left to Square: it finds 1 and 4 % of what they
leave of two published classifiers of digits, and 9 % where PGD of 8 large steps was not enough in training."""

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

MORE_RESTARTS, GRADIENT_FREE, TRANSFER = (
    "more_restarts_find_more",
    "gradient_free_beats_gradient",
    "transfer_beats_white_box",
)

SOURCES = {
    MORE_RESTARTS: "Mosbach et al. (2018), section 4; Carlini et al. (2019), section 5.2",
    GRADIENT_FREE: "Athalye et al. (2018), section 3.1; checks of AutoAttack, which warn at 0.2 % of all examples",
    TRANSFER: "Athalye et al. (2018), section 3.1; Bhat et al. (2018), section 4",
}

THRESHOLDS = {MORE_RESTARTS: FEW_SURVIVORS, GRADIENT_FREE: FEW_SURVIVORS, TRANSFER: MARGIN}
"""Of the checks that are not always run."""

RANDOM = "the classifier is random at inference, and would break examples in another look without any attack"


@dataclasses.dataclass(frozen=True)
class Check:
    """One check for gradient masking.

    Attributes:
        name: of the check.
        value: what was measured, or None where it was not run.
        threshold: the value is suspicious above it, or, for a check named `..._alignment`, below it. Where an attack is
            compared with another one it is a point, or as much more as is needed to be no chance.
        suspicious: the verdict.
        reason: the verdict in words.
        source: where the check was proposed.
    """

    name: str
    value: float | None
    threshold: float
    suspicious: bool
    reason: str
    source: str


def masking_checks(
    model: Any,
    dataset: Any,
    threat_model: ThreatModel,
    *,
    source: Any = None,
    examples: int = EXAMPLES,
    batch_size: int = 128,
    seed: int = 0,
    compile_attack: bool | str = "auto",
) -> list[Check]:
    """Runs every check for gradient masking.

    The thresholds are chosen so that adversarially trained and plain classifiers of digits pass, and such as hide
    their gradients (clean logit pairing, logit squeezing) do not. A single suspicious check is a reason to attack
    harder, and none is no proof.

    Args:
        model: see `evaluate`.
        dataset: see `evaluate`.
        threat_model: in which the classifier is said to be robust.
        source: another model from which attacks are transferred; without it that check is not run.
        examples: how many of the first examples are used.
        batch_size: examples at a time.
        seed: of all draws.
        compile_attack: see `evaluate`.

    Raises:
        ValueError: if an argument is not what it must be; the message names what was received.
    """
    if not isinstance(threat_model, ThreatModel):
        raise ValueError(f"threat_model is a ThreatModel such as Linf(0.3). Received: threat_model={threat_model!r}")
    check_integer("examples", examples)
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "compile_attack": compile_attack}
    setup = prepare_evaluation(model, dataset, threat_model.bounds, source=source, verbose=False, **options)
    return run_checks(setup, threat_model, examples)


def run_checks(setup: EvaluationSetup, threat_model: ThreatModel, examples: int = EXAMPLES) -> list[Check]:
    """Runs every check on the first examples of a setup: see `masking_checks`."""
    setup = setup.first(examples)
    transfer = None if setup.white_box else setup
    target = with_gradient_everywhere(setup.target)
    white_box = dataclasses.replace(setup, source=target, target=target)
    outcomes = Outcomes(white_box, threat_model)
    return [
        _deterministic(white_box),
        _logits(white_box),
        _zero_gradients(white_box, threat_model),
        _alignment(white_box, threat_model),
        _one_step(outcomes),
        _iterations(outcomes),
        _restarts(outcomes) if not setup.is_random else _not_run(MORE_RESTARTS, RANDOM),
        _unbounded(white_box, threat_model),
        _random_target(outcomes),
        _gradient_free(outcomes) if not setup.is_random else _not_run(GRADIENT_FREE, RANDOM),
        _transfer(outcomes, transfer, threat_model),
    ]


def check_of_square(attacks: Mapping[str, Attack], robust: Mapping[str, float]) -> list[Check]:
    """Returns a check of what Square found after attacks with gradients, if there is such a Square in a suite.

    Args:
        attacks: of the suite, by name, in their order.
        robust: the share that is left after each.
    """
    names = list(attacks)
    squares = [name for name in names[1:] if isinstance(attacks[name], Square)]
    if not squares:
        return []
    left = robust[names[names.index(squares[0]) - 1]]
    broken = left - robust[squares[0]]
    check = _above(
        "gradient_free_finds_more",
        share_of_survivors(broken, left),
        FEW_LEFT_TO_SQUARE,
        "Attacks with gradients missed what one without finds: ",
        f"{percent(left)} withstand the attacks before Square, which breaks {percent(broken)} of the examples more.",
        "Checks of AutoAttack (Croce & Hein, 2020), which warn at 0.2 % of all examples",
    )
    return [check]


def _above(name: str, value: float, threshold: float, warning: str, numbers: str, source: str) -> Check:
    """Returns the check of a value that is suspicious above a threshold; the warning is put before the numbers then."""
    suspicious = not value <= threshold
    return Check(name, value, threshold, suspicious, warning + numbers if suspicious else numbers, source)


def _not_run(name: str, reason: str) -> Check:
    return Check(name, None, THRESHOLDS[name], False, f"Not run: {reason}.", SOURCES[name])


def _stronger(name: str, attack: np.ndarray, reference: np.ndarray, warning: str, numbers: str, source: str) -> Check:
    """Returns the check that is suspicious where an attack breaks more than another one, by more than chance.

    Args:
        name: of the check.
        attack: (examples,) bool: which withstand it.
        reference: which withstand the attack that should be as strong.
        warning: is put before the numbers where it is suspicious.
        numbers: what was found, in words.
        source: where the check was proposed.
    """
    suspicious = is_stronger(attack, reference)
    value, threshold = float(reference.mean() - attack.mean()), least_difference(attack, reference)
    return Check(name, value, threshold, suspicious, warning + numbers if suspicious else numbers, source)


class Outcomes:
    """Which examples withstand which attack, each measured when it is first asked for.

    Args:
        setup: white box.
        ball: the threat model.
    """

    def __init__(self, setup: EvaluationSetup, ball: ThreatModel) -> None:
        self._setup = setup
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
        return self._setup.images.ndim > 2

    def accuracy(self, name: str) -> float:
        """Returns the share of examples that withstand an attack."""
        return float(self.robust(name).mean())

    def share_found_only_by(self, name: str, other: str) -> float:
        """Returns the share of examples that one attack breaks and the other does not."""
        return float((self.robust(other) & ~self.robust(name)).mean())

    def _measure(self, name: str) -> np.ndarray:
        setup, ranks = self._setup, self._setup.first_ranks
        if name == "more_restarts":
            name, ranks = "restarts", np.where(self._robust("restarts"), ranks, setup.classes)
            setup = dataclasses.replace(setup, seed=(setup.seed + 1) % 2**31)
        return run_attack(self._attacks[name], setup, ranks).robust


def _deterministic(setup: EvaluationSetup) -> Check:
    return _above(
        "not_deterministic",
        setup.change,
        DETERMINISTIC,
        "Random at inference, use AutoAttack's version 'rand': ",
        f"logits of the same images differ by at most {setup.change:.3g} of the largest between two passes.",
        "Croce et al. (2020), RobustBench; checks of AutoAttack",
    )


def _logits(setup: EvaluationSetup) -> Check:
    value = share_of_probabilities(setup)
    return _above(
        "not_logits",
        value,
        largest_chance(len(setup.images)),
        "Attacks need logits: ",
        f"{percent(value)} of the outputs add up to 1 as probabilities do.",
        "Checks of AutoAttack (Croce & Hein, 2020)",
    )


def _zero_gradients(setup: EvaluationSetup, ball: ThreatModel) -> Check:
    value = share_without_gradient(setup, ball)
    return _above(
        "zero_gradients",
        value,
        FEW_WITHOUT_GRADIENT,
        "Attacks have nothing to follow: ",
        f"the input gradient of the cross-entropy is zero or not finite for {percent(value)} of the examples.",
        "Carlini & Wagner (2017); Athalye et al. (2018), section 3",
    )


def _alignment(setup: EvaluationSetup, ball: ThreatModel) -> Check:
    value = gradient_alignment(setup, ball)
    threshold = 0.15
    suspicious = not value >= threshold
    rough = "The loss is rough" if suspicious else "The loss is smooth enough"
    return Check(
        "gradient_alignment",
        value,
        threshold,
        suspicious,
        f"{rough}: gradients at an image and at a random point near it have a cosine of {value:.2f} on average.",
        "Andriushchenko & Flammarion (2020), equation 4, at a tenth of epsilon",
    )


def _one_step(outcomes: Outcomes) -> Check:
    one, many = outcomes.robust("one_step"), outcomes.robust("pgd")
    return _stronger(
        "one_step_beats_iterative",
        one,
        many,
        "An iterative attack is weaker than one step: ",
        f"{percent(one.mean())} withstand one step, {percent(many.mean())} withstand {STEPS}.",
        "Athalye et al. (2018), section 3.1",
    )


def _iterations(outcomes: Outcomes) -> Check:
    few, many = outcomes.accuracy("pgd"), outcomes.accuracy("long_pgd")
    return _above(
        "more_iterations_find_more",
        share_of_survivors(few - many, few),
        FEW_SURVIVORS,
        "More iterations still break many: ",
        f"{percent(few)} withstand {STEPS} steps, {percent(many)} withstand {LONG_STEPS}.",
        "Engstrom et al. (2018); Carlini et al. (2019), section 4.6",
    )


def _restarts(outcomes: Outcomes) -> Check:
    few, many = outcomes.accuracy("restarts"), outcomes.accuracy("more_restarts")
    return _above(
        MORE_RESTARTS,
        share_of_survivors(few - many, few),
        FEW_SURVIVORS,
        "The last restarts still break many: ",
        f"{percent(few)} withstand {RESTARTS} restarts, {percent(many)} withstand {2 * RESTARTS}.",
        SOURCES[MORE_RESTARTS],
    )


def _unbounded(setup: EvaluationSetup, ball: ThreatModel) -> Check:
    value = unbounded_accuracy(setup, ball)
    return _above(
        "unbounded_attack_fails",
        value,
        largest_chance(len(setup.images)),
        "Where every image of the pixel range is allowed none can withstand: ",
        f"{percent(value)} withstand PGD with perturbations as large as the pixel range.",
        "Athalye et al. (2018), section 3.1",
    )


def _random_target(outcomes: Outcomes) -> Check:
    untargeted, targeted = outcomes.accuracy("pgd"), outcomes.accuracy("random_target")
    return _above(
        "random_target_far_weaker",
        targeted - untargeted,
        0.2,
        "The targeted attack is far weaker than the untargeted one: ",
        f"{percent(targeted)} withstand PGD towards a random class, {percent(untargeted)} untargeted PGD.",
        "Engstrom et al. (2018), section 3",
    )


def _gradient_free(outcomes: Outcomes) -> Check:
    if not outcomes.has_squares:
        name, source = "gradient_free_beats_gradient", "Athalye et al. (2018), section 3.1"
        reason = "Not run: Square Attack needs images of a height and a width."
        return Check(name, None, FEW_SURVIVORS, False, reason, source)
    left, broken = outcomes.accuracy("pgd"), outcomes.share_found_only_by("square", "pgd")
    return _above(
        GRADIENT_FREE,
        share_of_survivors(broken, left),
        FEW_SURVIVORS,
        "An attack without gradients breaks many that PGD leaves: ",
        f"{percent(left)} withstand PGD, and Square Attack breaks {percent(broken)} of the examples, out of these.",
        SOURCES[GRADIENT_FREE],
    )


def _transfer(outcomes: Outcomes, setup: EvaluationSetup | None, ball: ThreatModel) -> Check:
    if setup is None:
        return _not_run(TRANSFER, "it needs a second model as the source of transferred attacks")
    white, black = outcomes.robust("pgd"), withstand_transfer(setup, ball)
    source_name = setup.source.description
    numbers = f"{percent(black.mean())} withstand PGD crafted on {source_name}, {percent(white.mean())} PGD on itself."
    return _stronger(TRANSFER, black, white, "A transferred attack is stronger: ", numbers, SOURCES[TRANSFER])


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


def share_of_probabilities(setup: EvaluationSetup) -> float:
    """Returns the share of outputs that are not negative and add up to 1."""
    outputs = setup.clean_logits.astype(np.float64)
    like = (outputs.min(axis=1) >= 0) & (np.abs(outputs.sum(axis=1) - 1) <= PROBABILITY_TOLERANCE)
    return float(like.mean())


def share_without_gradient(setup: EvaluationSetup, ball: ThreatModel) -> float:
    """Returns the share of examples whose input gradient at a random start is all zero, or not finite."""
    model_fn = setup.target.model_fn_for(None)

    def run(batch: tuple[Tensor, ...], seed: Tensor) -> Tensor:
        images, labels, radius = batch
        start = replace_unchecked(ball, epsilon=radius).random_point(images, seed)
        return is_usable(loss_gradient(model_fn, start, labels))

    return float(1 - _by_batch(run, setup, _with_radii(setup, ball)).mean())


def gradient_alignment(setup: EvaluationSetup, ball: ThreatModel) -> float:
    """Returns the mean cosine between the input gradients at an image and at a random point near it."""
    model_fn = setup.target.model_fn_for(None)

    def run(batch: tuple[Tensor, ...], seed: Tensor) -> Tensor:
        images, labels, radius = batch
        here = flatten(loss_gradient(model_fn, images, labels))
        near = replace_unchecked(ball, epsilon=NEARBY * radius).random_point(images, seed)
        there = flatten(loss_gradient(model_fn, near, labels))
        lengths = tf.norm(here, axis=1) * tf.norm(there, axis=1)
        return tf.math.divide_no_nan(tf.reduce_sum(here * there, axis=1), lengths)

    return float(_by_batch(run, setup, _with_radii(setup, ball)).mean())


def unbounded_accuracy(setup: EvaluationSetup, ball: ThreatModel) -> float:
    """Returns the share that withstands PGD on the margin where every image of the pixel range is allowed."""
    everywhere = dataclasses.replace(ball, epsilon=ball.covering_epsilon(setup.images[0].size))
    attack = PGD(everywhere, steps=100, objective="margin")
    setup = dataclasses.replace(setup, epsilons=None)
    return float(run_attack(attack, setup, setup.first_ranks).robust.mean())


def withstand_transfer(setup: EvaluationSetup, ball: ThreatModel) -> np.ndarray:
    """Returns which examples withstand PGD crafted on the source of a black-box setting, (examples,) bool."""
    return run_attack(PGD(ball, steps=STEPS), setup, setup.first_ranks).robust


def _with_radii(setup: EvaluationSetup, ball: ThreatModel) -> tuple[np.ndarray, ...]:
    """Returns images, sparse labels and the epsilon of each."""
    radii = np.full(len(setup.images), ball.epsilon, np.float32) if setup.epsilons is None else setup.epsilons
    return setup.images, setup.sparse_labels, radii


def _by_batch(function: BatchFunction, setup: EvaluationSetup, values: Any) -> np.ndarray:
    run_batch = setup.batch_function(function)
    seed = seeds.as_seed(setup.seed)
    return by_batch(lambda batch, index: run_batch(batch, seeds.fold(seed, index)), values, setup.batch_size)


def with_gradient_everywhere(classifier: LoadedClassifier) -> LoadedClassifier:
    """Returns the same classifier with the gradient zero where it has none: attacks would refuse it otherwise."""

    def model_fn_for(compute_dtype: str | None) -> ModelFn:
        model_fn = with_whole_gradient(classifier.model_fn_for(compute_dtype))
        return lambda images: model_fn(images) + 0.0 * tf.reduce_sum(flatten(images), axis=1, keepdims=True)

    return dataclasses.replace(classifier, model_fn_for=model_fn_for)

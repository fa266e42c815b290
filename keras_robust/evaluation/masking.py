"""Checks for gradient masking: they say when a robust accuracy cannot be trusted because attacks were fooled.

Each check has a measurement, a threshold and a verdict in words. `run_checks` lists all checks. The functions at the
end of this file make the measurements.
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
"""Number of examples, from the start of the data set. They are enough to see a difference of 5 percentage points."""

FEW_SURVIVORS = 0.1
"""Share of the survivors of one attack that another attack may break. On adversarially trained classifiers of digits,
Square breaks 2 to 4 % of the survivors of gradient attacks. With logit squeezing, it breaks half of them."""

FEW_LEFT_TO_SQUARE = 0.05
"""Share of the survivors of AutoAttack's gradient attacks that Square may break. It breaks 1 and 4 % of them on two
published classifiers of digits, and 9 % on a classifier whose training with 8 large steps of PGD was too weak."""

STEPS, LONG_STEPS = 40, 400

RESTARTS = 5

QUERIES = 1000

PROBABILITY_TOLERANCE = 1e-3

MARGIN = 0.01
"""A difference of accuracies up to this fraction may come from random starts. The networks with shattered gradients of
Bhat et al. (2018, table 1) lose 40 to 71 percentage points to a transferred attack."""

DEVIATIONS = 2
"""Number of standard deviations by which a difference must exceed 0. If b examples are broken only by one attack and w
only by the other, the standard deviation of b - w is at most sqrt(b + w) (McNemar, 1947)."""

FEWEST = 0.1
"""Smallest denominator of a share of survivors, as a fraction of the examples. Shares of fewer survivors are noise."""

NEARBY = 0.1
"""Distance between the points whose gradients are compared, as a share of epsilon."""

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
"""Thresholds of the checks that do not always run."""

RANDOM = "the classifier is random at inference, so its noise would break examples in a further pass without any attack"


@dataclasses.dataclass(frozen=True)
class Check:
    """One check for gradient masking.

    Attributes:
        name: name of the check.
        value: the measurement, or None if the check was not run.
        threshold: the value is suspicious if it is above the threshold, or, for "gradient_alignment", below it. For a
            check that compares two attacks, it is the larger of one percentage point and the difference that chance
            may cause.
        suspicious: whether the value suggests gradient masking.
        reason: the verdict in words.
        source: the publication that proposed the check.
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

    The thresholds are chosen so that adversarially trained and plain classifiers of digits pass, and classifiers that
    mask their gradients (clean logit pairing, logit squeezing) fail. If one check is suspicious, use stronger attacks.
    If no check is suspicious, gradients may still be masked.

    Args:
        model: see `evaluate`.
        dataset: see `evaluate`.
        threat_model: the threat model in which the classifier should be robust.
        source: another model, for transferred attacks. If it is None, the check with transferred attacks is not run.
        examples: number of examples, from the start of the data set.
        batch_size: number of examples at a time, a multiple of the number of replicas.
        seed: seed of all random draws, in [0, 2**31).
        compile_attack: see `evaluate`.

    Raises:
        ValueError: if an argument is not as described.
    """
    if not isinstance(threat_model, ThreatModel):
        raise ValueError(
            f"threat_model must be a ThreatModel such as Linf(0.3). Received: threat_model={threat_model!r}"
        )
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
    """Returns a check of whether Square breaks many survivors of the attacks before it in a suite.

    The list is empty if the suite has no Square after another attack.

    Args:
        attacks: the attacks of the suite by name, in their order.
        robust: the share of examples that withstand each attack and all attacks before it.
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
        "Square, which uses no gradients, breaks many examples that attacks with gradients left. ",
        f"{percent(left)} of the examples withstand the attacks before Square. Square breaks another {percent(broken)} "
        "of the examples.",
        "Checks of AutoAttack (Croce & Hein, 2020), which warn at 0.2 % of all examples",
    )
    return [check]


def _above(name: str, value: float, threshold: float, warning: str, numbers: str, source: str) -> Check:
    """Returns a check that is suspicious if `value` is above `threshold`. Its reason then starts with `warning`."""
    suspicious = not value <= threshold
    return Check(name, value, threshold, suspicious, warning + numbers if suspicious else numbers, source)


def _not_run(name: str, reason: str) -> Check:
    return Check(name, None, THRESHOLDS[name], False, f"Not run: {reason}.", SOURCES[name])


def _stronger(name: str, attack: np.ndarray, reference: np.ndarray, warning: str, numbers: str, source: str) -> Check:
    """Returns a check that is suspicious if an attack breaks more than a reference attack, by more than chance.

    Args:
        name: name of the check.
        attack: (examples,) bool: which examples withstand the attack.
        reference: (examples,) bool: which examples withstand the reference, which should be at least as strong.
        warning: start of the reason if the check is suspicious.
        numbers: the measurement in words.
        source: the publication that proposed the check.
    """
    suspicious = is_stronger(attack, reference)
    value, threshold = float(reference.mean() - attack.mean()), least_difference(attack, reference)
    return Check(name, value, threshold, suspicious, warning + numbers if suspicious else numbers, source)


class Outcomes:
    """Says which examples withstand which attack. Each attack runs when its result is first needed.

    Args:
        setup: a setup of the white box.
        ball: the threat model.
    """

    def __init__(self, setup: EvaluationSetup, ball: ThreatModel) -> None:
        self._setup = setup
        long_step = 2.5 * ball.epsilon / STEPS or None  # at epsilon 0 the step size must be None
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
        """Returns (examples,) bool: which examples withstand an attack.

        "more_restarts" means twice as many restarts: it attacks the survivors of "restarts" again, with another seed.
        """
        return self._robust(name)

    @property
    def has_squares(self) -> bool:
        """Whether the images have a height and a width, which Square Attack needs."""
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
        "The classifier is random at inference: use AutoAttack's version 'rand'. ",
        f"Logits of the same images differ by at most {setup.change:.3g} of the largest between two passes.",
        "Croce et al. (2020), RobustBench; checks of AutoAttack",
    )


def _logits(setup: EvaluationSetup) -> Check:
    value = share_of_probabilities(setup)
    return _above(
        "not_logits",
        value,
        largest_chance(len(setup.images)),
        "Attacks need logits, not probabilities. ",
        f"{percent(value)} of the outputs are not negative and add up to 1, as probabilities do.",
        "Checks of AutoAttack (Croce & Hein, 2020)",
    )


def _zero_gradients(setup: EvaluationSetup, ball: ThreatModel) -> Check:
    value = share_without_gradient(setup, ball)
    return _above(
        "zero_gradients",
        value,
        FEW_WITHOUT_GRADIENT,
        "Attacks have no gradient to follow. ",
        f"The input gradient of the cross-entropy is zero or not finite for {percent(value)} of the examples.",
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
        f"{rough}. The gradients at an image and at a random point near it have a cosine of {value:.2f} on average.",
        "Andriushchenko & Flammarion (2020), equation 4, at a tenth of epsilon",
    )


def _one_step(outcomes: Outcomes) -> Check:
    one, many = outcomes.robust("one_step"), outcomes.robust("pgd")
    return _stronger(
        "one_step_beats_iterative",
        one,
        many,
        "An iterative attack is weaker than one step. ",
        f"{percent(one.mean())} of the examples withstand one step, {percent(many.mean())} withstand {STEPS} steps.",
        "Athalye et al. (2018), section 3.1",
    )


def _iterations(outcomes: Outcomes) -> Check:
    few, many = outcomes.accuracy("pgd"), outcomes.accuracy("long_pgd")
    return _above(
        "more_iterations_find_more",
        share_of_survivors(few - many, few),
        FEW_SURVIVORS,
        "More iterations still break many examples. ",
        f"{percent(few)} of the examples withstand {STEPS} steps, and {percent(many)} withstand {LONG_STEPS} steps.",
        "Engstrom et al. (2018); Carlini et al. (2019), section 4.6",
    )


def _restarts(outcomes: Outcomes) -> Check:
    few, many = outcomes.accuracy("restarts"), outcomes.accuracy("more_restarts")
    return _above(
        MORE_RESTARTS,
        share_of_survivors(few - many, few),
        FEW_SURVIVORS,
        "More restarts still break many examples. ",
        f"{percent(few)} of the examples withstand {RESTARTS} restarts, and {percent(many)} withstand {2 * RESTARTS} "
        "restarts.",
        SOURCES[MORE_RESTARTS],
    )


def _unbounded(setup: EvaluationSetup, ball: ThreatModel) -> Check:
    value = unbounded_accuracy(setup, ball)
    return _above(
        "unbounded_attack_fails",
        value,
        largest_chance(len(setup.images)),
        "No example can be robust if every image of the pixel range is allowed. ",
        f"{percent(value)} of the examples withstand PGD with an epsilon that allows every image of the pixel range.",
        "Athalye et al. (2018), section 3.1",
    )


def _random_target(outcomes: Outcomes) -> Check:
    untargeted, targeted = outcomes.accuracy("pgd"), outcomes.accuracy("random_target")
    return _above(
        "random_target_far_weaker",
        targeted - untargeted,
        0.2,
        "The targeted attack is far weaker than the untargeted attack. ",
        f"{percent(targeted)} of the examples withstand PGD towards a random class, and {percent(untargeted)} "
        "withstand untargeted PGD.",
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
        "An attack without gradients breaks many examples that withstand PGD. ",
        f"{percent(left)} of the examples withstand PGD. Of all examples, {percent(broken)} withstand PGD but not "
        "Square Attack.",
        SOURCES[GRADIENT_FREE],
    )


def _transfer(outcomes: Outcomes, setup: EvaluationSetup | None, ball: ThreatModel) -> Check:
    if setup is None:
        return _not_run(TRANSFER, "the check needs a second model as the source of transferred attacks")
    white, black = outcomes.robust("pgd"), withstand_transfer(setup, ball)
    source_name = setup.source.description
    numbers = (
        f"{percent(black.mean())} of the examples withstand PGD crafted on {source_name}, and {percent(white.mean())} "
        "withstand PGD crafted on the classifier itself."
    )
    warning = "A transferred attack is stronger than the same attack on the classifier itself. "
    return _stronger(TRANSFER, black, white, warning, numbers, SOURCES[TRANSFER])


def is_stronger(attack: np.ndarray, reference: np.ndarray) -> bool:
    """Returns whether an attack breaks more examples than another one, by more than chance.

    Args:
        attack: (examples,) bool: which examples withstand the attack.
        reference: (examples,) bool: which examples withstand the other attack.
    """
    difference = int(reference.sum()) - int(attack.sum())
    return bool(difference > MARGIN * len(attack) and difference >= DEVIATIONS * np.sqrt((attack != reference).sum()))


def least_difference(attack: np.ndarray, reference: np.ndarray) -> float:
    """Returns the difference of two accuracies that is no longer chance for `is_stronger`."""
    return max(MARGIN, DEVIATIONS * float(np.sqrt((attack != reference).sum())) / len(attack))


def largest_chance(examples: int) -> float:
    """Returns the largest share that may be chance if 0 is expected: one percentage point, or one example."""
    return max(MARGIN, 1 / examples)


def share_of_survivors(broken: float, left: float) -> float:
    """Returns `broken / left`. Both are shares of all examples, and the denominator is at least `FEWEST`."""
    return broken / max(left, FEWEST)


def share_of_probabilities(setup: EvaluationSetup) -> float:
    """Returns the share of outputs that are not negative and add up to 1."""
    outputs = setup.clean_logits.astype(np.float64)
    like = (outputs.min(axis=1) >= 0) & (np.abs(outputs.sum(axis=1) - 1) <= PROBABILITY_TOLERANCE)
    return float(like.mean())


def share_without_gradient(setup: EvaluationSetup, ball: ThreatModel) -> float:
    """Returns the share of examples whose input gradient at a random start is zero everywhere, or not finite."""
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
    """Returns the share of examples that withstand PGD with an epsilon that allows every image of the pixel range."""
    everywhere = dataclasses.replace(ball, epsilon=ball.covering_epsilon(setup.images[0].size))
    attack = PGD(everywhere, steps=100, objective="margin")
    setup = dataclasses.replace(setup, epsilons=None)
    return float(run_attack(attack, setup, setup.first_ranks).robust.mean())


def withstand_transfer(setup: EvaluationSetup, ball: ThreatModel) -> np.ndarray:
    """Returns (examples,) bool: which examples withstand PGD crafted on the source of a black-box setup."""
    return run_attack(PGD(ball, steps=STEPS), setup, setup.first_ranks).robust


def _with_radii(setup: EvaluationSetup, ball: ThreatModel) -> tuple[np.ndarray, ...]:
    """Returns images, sparse labels and epsilons of the examples."""
    radii = np.full(len(setup.images), ball.epsilon, np.float32) if setup.epsilons is None else setup.epsilons
    return setup.images, setup.sparse_labels, radii


def _by_batch(function: BatchFunction, setup: EvaluationSetup, values: Any) -> np.ndarray:
    run_batch = setup.batch_function(function)
    seed = seeds.as_seed(setup.seed)
    return by_batch(lambda batch, index: run_batch(batch, seeds.fold(seed, index)), values, setup.batch_size)


def with_gradient_everywhere(classifier: LoadedClassifier) -> LoadedClassifier:
    """Returns the classifier with a gradient of zero if it has none, because attacks refuse a missing gradient."""

    def model_fn_for(compute_dtype: str | None) -> ModelFn:
        model_fn = with_whole_gradient(classifier.model_fn_for(compute_dtype))
        return lambda images: model_fn(images) + 0.0 * tf.reduce_sum(flatten(images), axis=1, keepdims=True)

    return dataclasses.replace(classifier, model_fn_for=model_fn_for)

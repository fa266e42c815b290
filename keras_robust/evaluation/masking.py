"""Checks that say when a robust accuracy cannot be trusted, because attacks were fooled (gradient masking).

What is measured is in `masking_probes.py`; here are the thresholds and the verdicts in words.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_robust.attacks import Attack, Square
from keras_robust.core import ThreatModel
from keras_robust.core.checks import check_integer
from keras_robust.evaluation import masking_probes as probes
from keras_robust.evaluation.gradients import FEW_WITHOUT_GRADIENT
from keras_robust.evaluation.setting import DETERMINISTIC, Setting, make_setting
from keras_robust.reports.formatting import percent

EXAMPLES = 200
"""So many of the first examples are enough for a difference of 5 points."""
FEW_SURVIVORS = 0.1
"""Of what one attack leaves, another one may find so much: Square finds 2 to 4 % of what gradient attacks leave of
adversarially trained classifiers of digits, and half of what they leave of logit squeezing."""


FEW_LEFT_TO_SQUARE = 0.05
"""Of what AutoAttack's attacks with gradients leave, so much may be left to Square: it finds 1 and 4 % of what they
leave of two published classifiers of digits, and 9 % where PGD of 8 large steps was not enough in training."""


RESTARTS, GRADIENT_FREE, TRANSFER = (
    "more_restarts_find_more",
    "gradient_free_beats_gradient",
    "transfer_beats_white_box",
)
SOURCES = {
    RESTARTS: "Mosbach et al. (2018), section 4; Carlini et al. (2019), section 5.2",
    GRADIENT_FREE: "Athalye et al. (2018), section 3.1; checks of AutoAttack, which warn at 0.2 % of all examples",
    TRANSFER: "Athalye et al. (2018), section 3.1; Bhat et al. (2018), section 4",
}
THRESHOLDS = {RESTARTS: FEW_SURVIVORS, GRADIENT_FREE: FEW_SURVIVORS, TRANSFER: probes.MARGIN}
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
    setting = make_setting(model, dataset, threat_model.bounds, source=source, verbose=False, **options)
    return run_checks(setting, threat_model, examples)


def run_checks(setting: Setting, threat_model: ThreatModel, examples: int = EXAMPLES) -> list[Check]:
    """Runs every check on the first examples of a setting: see `masking_checks`."""
    setting = setting.first(examples)
    transfer = None if setting.white_box else setting
    target = probes.connected(setting.target)
    white_box = dataclasses.replace(setting, source=target, target=target)
    outcomes = probes.Outcomes(white_box, threat_model)
    return [
        _deterministic(white_box),
        _logits(white_box),
        _zero_gradients(white_box, threat_model),
        _alignment(white_box, threat_model),
        _one_step(outcomes),
        _iterations(outcomes),
        _restarts(outcomes) if not setting.is_random else _not_run(RESTARTS, RANDOM),
        _unbounded(white_box, threat_model),
        _random_target(outcomes),
        _gradient_free(outcomes) if not setting.is_random else _not_run(GRADIENT_FREE, RANDOM),
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
        probes.share_of_survivors(broken, left),
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
    suspicious = probes.is_stronger(attack, reference)
    value, threshold = float(reference.mean() - attack.mean()), probes.least_difference(attack, reference)
    return Check(name, value, threshold, suspicious, warning + numbers if suspicious else numbers, source)


def _deterministic(setting: Setting) -> Check:
    return _above(
        "not_deterministic",
        setting.change,
        DETERMINISTIC,
        "Random at inference, use AutoAttack's version 'rand': ",
        f"logits of the same images differ by at most {setting.change:.3g} of the largest between two passes.",
        "Croce et al. (2020), RobustBench; checks of AutoAttack",
    )


def _logits(setting: Setting) -> Check:
    value = probes.share_of_probabilities(setting)
    return _above(
        "not_logits",
        value,
        probes.largest_chance(len(setting.images)),
        "Attacks need logits: ",
        f"{percent(value)} of the outputs add up to 1 as probabilities do.",
        "Checks of AutoAttack (Croce & Hein, 2020)",
    )


def _zero_gradients(setting: Setting, ball: ThreatModel) -> Check:
    value = probes.share_without_gradient(setting, ball)
    return _above(
        "zero_gradients",
        value,
        FEW_WITHOUT_GRADIENT,
        "Attacks have nothing to follow: ",
        f"the input gradient of the cross-entropy is zero or not finite for {percent(value)} of the examples.",
        "Carlini & Wagner (2017); Athalye et al. (2018), section 3",
    )


def _alignment(setting: Setting, ball: ThreatModel) -> Check:
    value = probes.gradient_alignment(setting, ball)
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


def _one_step(outcomes: probes.Outcomes) -> Check:
    one, many = outcomes.robust("one_step"), outcomes.robust("pgd")
    return _stronger(
        "one_step_beats_iterative",
        one,
        many,
        "An iterative attack is weaker than one step: ",
        f"{percent(one.mean())} withstand one step, {percent(many.mean())} withstand {probes.STEPS}.",
        "Athalye et al. (2018), section 3.1",
    )


def _iterations(outcomes: probes.Outcomes) -> Check:
    few, many = outcomes.accuracy("pgd"), outcomes.accuracy("long_pgd")
    return _above(
        "more_iterations_find_more",
        probes.share_of_survivors(few - many, few),
        FEW_SURVIVORS,
        "More iterations still break many: ",
        f"{percent(few)} withstand {probes.STEPS} steps, {percent(many)} withstand {probes.LONG_STEPS}.",
        "Engstrom et al. (2018); Carlini et al. (2019), section 4.6",
    )


def _restarts(outcomes: probes.Outcomes) -> Check:
    few, many = outcomes.accuracy("restarts"), outcomes.accuracy("more_restarts")
    return _above(
        RESTARTS,
        probes.share_of_survivors(few - many, few),
        FEW_SURVIVORS,
        "The last restarts still break many: ",
        f"{percent(few)} withstand {probes.RESTARTS} restarts, {percent(many)} withstand {2 * probes.RESTARTS}.",
        SOURCES[RESTARTS],
    )


def _unbounded(setting: Setting, ball: ThreatModel) -> Check:
    value = probes.unbounded_accuracy(setting, ball)
    return _above(
        "unbounded_attack_fails",
        value,
        probes.largest_chance(len(setting.images)),
        "Where every image of the pixel range is allowed none can withstand: ",
        f"{percent(value)} withstand PGD with perturbations as large as the pixel range.",
        "Athalye et al. (2018), section 3.1",
    )


def _random_target(outcomes: probes.Outcomes) -> Check:
    untargeted, targeted = outcomes.accuracy("pgd"), outcomes.accuracy("random_target")
    return _above(
        "random_target_far_weaker",
        targeted - untargeted,
        0.2,
        "The targeted attack is far weaker than the untargeted one: ",
        f"{percent(targeted)} withstand PGD towards a random class, {percent(untargeted)} untargeted PGD.",
        "Engstrom et al. (2018), section 3",
    )


def _gradient_free(outcomes: probes.Outcomes) -> Check:
    if not outcomes.has_squares:
        name, source = "gradient_free_beats_gradient", "Athalye et al. (2018), section 3.1"
        reason = "Not run: Square Attack needs images of a height and a width."
        return Check(name, None, FEW_SURVIVORS, False, reason, source)
    left, broken = outcomes.accuracy("pgd"), outcomes.share_found_only_by("square", "pgd")
    return _above(
        GRADIENT_FREE,
        probes.share_of_survivors(broken, left),
        FEW_SURVIVORS,
        "An attack without gradients breaks many that PGD leaves: ",
        f"{percent(left)} withstand PGD, and Square Attack breaks {percent(broken)} of the examples, out of these.",
        SOURCES[GRADIENT_FREE],
    )


def _transfer(outcomes: probes.Outcomes, setting: Setting | None, ball: ThreatModel) -> Check:
    if setting is None:
        return _not_run(TRANSFER, "it needs a second model as the source of transferred attacks")
    white, black = outcomes.robust("pgd"), probes.withstand_transfer(setting, ball)
    source_name = setting.source.description
    numbers = f"{percent(black.mean())} withstand PGD crafted on {source_name}, {percent(white.mean())} PGD on itself."
    return _stronger(TRANSFER, black, white, "A transferred attack is stronger: ", numbers, SOURCES[TRANSFER])

"""Named evaluations, as `launch/evaluate.py --suite=...` runs them: attacks, checks and analyses in one report."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_robust.attacks import PGD, Attack
from keras_robust.core.execution import make_tf_function
from keras_robust.evaluation.attack_run import check_attack, check_fits, loss_gradient
from keras_robust.evaluation.autoattack import AutoAttack
from keras_robust.evaluation.curves import epsilon_curve, iteration_curve
from keras_robust.evaluation.evaluate import CheckedAnalysis, evaluate
from keras_robust.evaluation.inputs import EvaluationSetup, load_classifier, load_other_classifier
from keras_robust.evaluation.journal import Analysis
from keras_robust.evaluation.large_epsilon_images import large_epsilon_images
from keras_robust.evaluation.loss_surface import AXES, loss_surface
from keras_robust.evaluation.normalization_statistics import (
    check_two_batches,
    classifier_and_layer,
    normalization_statistics,
)
from keras_robust.evaluation.paper_suite import PaperSuite
from keras_robust.evaluation.report import Report
from keras_robust.evaluation.suite import Combined, Suite
from keras_robust.evaluation.transfer_matrix import transfer_matrix
from keras_robust.layers import use_branch

SUITES = ("paper", "autoattack", "curve", "transfer", "masking", "normalization", "images", "surface", "all")
EPSILON_PARTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Points of the epsilon curve, in units of epsilon; where every image of the pixel range is allowed is added."""
LARGE = 2
"""Epsilon of the large-epsilon images, in units of epsilon."""
SHAFAHI_IMAGES, SHAFAHI_SURFACES = 9, 2
"""How many examples figures 2 and 3 of Shafahi et al. (2019) show."""


def evaluate_suite(
    suite: str | None,
    model: Any,
    dataset: Any,
    attack: Attack,
    *,
    source: Any = None,
    models: Mapping[str, Any] | None = None,
    transfer_steps: Sequence[int] = (),
    version: str = "standard",
    keep_adversarials: bool = False,
    top_k: int = 1,
    batch_size: int = 128,
    seed: int = 0,
    branch: str | None = None,
    dataset_name: str = "",
    journal: str | pathlib.Path | None = None,
    verbose: bool = True,
    compile_attack: bool | str = "auto",
) -> Report:
    """Runs a named evaluation.

    "autoattack" is `AutoAttack` and "paper" is `PaperSuite`, both in the threat model of `attack`; "masking" is
    `attack` and the checks for gradient masking; "curve" is `attack`, `iteration_curve` (of one restart),
    `epsilon_curve`, `loss_surface` and `large_epsilon_images`; "transfer" is `attack` and the `transfer_matrix` of
    `model` and `models`; "normalization" is `attack` and the `normalization_statistics`; "images" is `attack` and what
    it makes of the first nine examples, as figure 2 of Shafahi et al. (2019) shows it of a large epsilon; "surface" is
    `attack` and the loss surfaces of two examples, of that paper's figure 3; "all" is all of them but the last three,
    its attacks those of "paper" and then those of "autoattack".

    Args:
        suite: one of these names, or None for `attack` alone.
        model: see `evaluate`.
        dataset: see `evaluate`.
        attack: a `PGD`, for "curve" and "all"; any attack otherwise.
        source: see `evaluate`.
        models: further models by name, for "transfer" (which needs one) and "all".
        transfer_steps: the transfer matrix is of PGD with these numbers of steps of 2.5 epsilon / steps, which
            `attack` must be; with none it is of `attack`.
        version: of AutoAttack.
        keep_adversarials: see `evaluate`.
        top_k: see `evaluate`.
        batch_size: see `evaluate`.
        seed: see `evaluate`.
        branch: of mixture batch normalisation, "clean" or "adversarial"; None is the one that the model was saved with.
        dataset_name: see `evaluate`.
        journal: a folder for progress: see `evaluate`. What was finished is not run again.
        verbose: show progress bars.
        compile_attack: see `evaluate`.

    Raises:
        ValueError: if an argument is not what it must be; the message names what was received.
    """
    if suite is not None and suite not in SUITES:
        raise ValueError(f"suite is one of {SUITES} or None. Received: suite={suite!r}")
    check_attack(attack)
    if suite in ("curve", "surface", "all") and attack.threat_model.epsilon == 0:
        raise ValueError(
            "Curves over epsilon and loss surfaces are of an epsilon above 0. "
            f"Received: suite={suite!r} with attack={attack!r}"
        )
    if suite in ("curve", "all") and not isinstance(attack, PGD):
        raise ValueError(f"The curves are of PGD. Received: suite={suite!r} with attack={attack!r}")
    if suite == "transfer" and not models:
        raise ValueError("A transfer matrix needs a second model. Received: models of length 0")
    transferred = [attack] if not transfer_steps else _with_steps(attack, transfer_steps)
    ball = attack.threat_model
    attacks: Attack | Suite = attack
    if suite == "autoattack":
        attacks = AutoAttack(ball, version)
    elif suite == "paper":
        attacks = PaperSuite(ball)
    elif suite == "all":
        attacks = Combined((PaperSuite(ball), AutoAttack(ball, version)))
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "compile_attack": compile_attack}
    with use_branch(branch):
        return evaluate(
            model,
            dataset,
            attacks,
            source=source,
            keep_adversarials=keep_adversarials,
            top_k=top_k,
            checks=True if suite in ("masking", "all") else None,
            analyses=_analyses(suite, model, dataset, attack, models or {}, transferred, options),
            dataset_name=dataset_name,
            journal=journal,
            verbose=verbose,
            **options,
        )


def _short_name(model: Any) -> str:
    """Returns the folder of a model's file, such as "mnist_pgd" for runs/mnist_pgd/best.keras, or "evaluated"."""
    return (isinstance(model, str | pathlib.Path) and pathlib.Path(model).parent.name) or "evaluated"


def _identity(name: str, model: Any) -> str:
    """Returns a name that other weights change; those of a function are not known."""
    sha256 = load_classifier(model).sha256
    return name if sha256 is None else f"{name} ({sha256[:8]})"


def _with_steps(attack: Attack, numbers: Sequence[int]) -> list[Attack]:
    if not isinstance(attack, PGD):
        raise ValueError(f"transfer_steps are of PGD. Received: transfer_steps={numbers} with attack={attack!r}")
    return [dataclasses.replace(attack, steps=steps, step_size=None) for steps in numbers]


def _analyses(
    suite: str | None,
    model: Any,
    dataset: Any,
    attack: Attack,
    models: Mapping[str, Any],
    transferred: list[Attack],
    options: dict[str, Any],
) -> dict[str, Analysis]:
    """Returns the analyses of a suite by a name that says what they depend on."""
    ball = attack.threat_model
    analyses: dict[str, Analysis] = {}
    if suite in ("curve", "all") and isinstance(attack, PGD):
        epsilons = (*(part * ball.epsilon for part in EPSILON_PARTS), math.inf)
        single = dataclasses.replace(attack, restarts=1)
        doubled = LARGE * ball.epsilon if ball.norm != "linf" else min(LARGE * ball.epsilon, ball.covering_epsilon(1))
        large = dataclasses.replace(attack, threat_model=dataclasses.replace(ball, epsilon=doubled))
        fits = _fits([attack])
        analyses = {
            f"iteration curve of {single.name}": CheckedAnalysis(
                lambda: iteration_curve(model, dataset, single, **options), fits
            ),
            f"epsilon curve of {attack.name}": CheckedAnalysis(
                lambda: epsilon_curve(model, dataset, attack, epsilons, **options), fits
            ),
            f"loss surface ({ball})": CheckedAnalysis(
                lambda: loss_surface(model, dataset, ball.epsilon, norm=ball.norm, bounds=ball.bounds, **options), fits
            ),
            f"images of {large.name}": CheckedAnalysis(
                lambda: large_epsilon_images(model, dataset, large, **options), fits
            ),
        }
    if suite == "images":
        analyses[f"images of {attack.name}"] = CheckedAnalysis(
            lambda: large_epsilon_images(model, dataset, attack, examples=SHAFAHI_IMAGES, **options), _fits([attack])
        )
    if suite == "surface":
        for axes in AXES:
            surface = functools.partial(
                loss_surface,
                *(model, dataset, ball.epsilon),
                norm=ball.norm,
                bounds=ball.bounds,
                axes=axes,
                examples=SHAFAHI_SURFACES,
                **options,
            )
            analyses[f"loss surface ({ball}), {axes}"] = CheckedAnalysis(surface, _is_differentiable)
    if suite == "normalization":
        analyses[f"statistics of normalisation under {attack.name}"] = CheckedAnalysis(
            lambda: normalization_statistics(model, dataset, attack, **options), _has_statistics(model, attack)
        )
    if models:
        everyone, names = {_short_name(model): model, **models}, [attack.name for attack in transferred]
        if len(everyone) == len(models):
            raise ValueError(f"The evaluated model has a name of its own. Received: {_short_name(model)!r} in models")
        classifiers = ", ".join(_identity(name, model) for name, model in everyone.items())
        analyses[f"transfer of {'; '.join(names)} between {classifiers}"] = CheckedAnalysis(
            lambda: transfer_matrix(everyone, dataset, transferred, **options), _transfers(models, transferred)
        )
    return analyses


# These say before the first attack of an evaluation whether an analysis can run. An analysis attacks the classifier
# itself (white box), even if the evaluation does not.


def _white_box(setup: EvaluationSetup) -> EvaluationSetup:
    return dataclasses.replace(setup, source=setup.target)


def _is_differentiable(setup: EvaluationSetup) -> None:
    """Raises `ValueError` unless the classifier is differentiable in its images; it is traced, and not run."""
    model_fn = setup.target.model_fn_for(None)
    images = tf.TensorSpec((setup.batch_size, *setup.images.shape[1:]), tf.float32)
    labels = tf.TensorSpec((setup.batch_size,), tf.int32)
    gradient = make_tf_function(lambda points, labels: loss_gradient(model_fn, points, labels))
    with setup.strategy.scope():
        gradient.get_concrete_function(images, labels)


def _fits(attacks: Sequence[Attack]) -> Callable[[EvaluationSetup], None]:
    return lambda setup: check_fits(attacks, _white_box(setup))


def _has_statistics(model: Any, attack: Attack) -> Callable[[EvaluationSetup], None]:
    def check(setup: EvaluationSetup) -> None:
        classifier_and_layer(model)
        check_two_batches(len(setup.images), setup.batch_size)
        check_fits([attack], _white_box(setup))

    return check


def _transfers(models: Mapping[str, Any], attacks: Sequence[Attack]) -> Callable[[EvaluationSetup], None]:
    def check(setup: EvaluationSetup) -> None:
        check_fits(attacks, _white_box(setup))
        for model in models.values():
            other = load_other_classifier(
                model,
                setup.images[: setup.batch_size],
                setup.classes,
                setup.batch_size,
                setup.compile_attack,
            )
            check_fits(attacks, dataclasses.replace(setup, source=other))

    return check

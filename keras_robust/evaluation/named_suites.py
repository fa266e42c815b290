"""The named evaluations of `launch/evaluate.py --suite=...`: attacks, checks and analyses in one report."""

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
"""Points of the epsilon curve, in units of epsilon. The epsilon that allows every image of the pixel range is added."""
LARGE = 2
"""The epsilon of the large-epsilon images, as a multiple of the epsilon of the attack."""
SHAFAHI_IMAGES, SHAFAHI_SURFACES = 9, 2
"""Number of examples in figures 2 and 3 of Shafahi et al. (2019)."""


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

    - "paper": the attacks of `PaperSuite`, in the threat model of `attack`.
    - "autoattack": `AutoAttack`, in the threat model of `attack`.
    - "curve": `attack`, `iteration_curve` (with one restart), `epsilon_curve`, `loss_surface` and
      `large_epsilon_images`.
    - "transfer": `attack` and the `transfer_matrix` of `model` and `models`.
    - "masking": `attack` and the checks for gradient masking.
    - "normalization": `attack` and `normalization_statistics`.
    - "images": `attack` and its images of the first nine examples, as in figure 2 of Shafahi et al. (2019). Use a large
      epsilon.
    - "surface": `attack` and the loss surfaces of two examples, as in figure 3 of that paper.
    - "all": the attacks of "paper" and then of "autoattack", the analyses of "curve", the checks, and, with `models`,
      the transfer matrix.

    Args:
        suite: one of these names, or None to run only `attack`.
        model: see `evaluate`.
        dataset: see `evaluate`.
        attack: any attack. "curve" and "all" need a `PGD`.
        source: see `evaluate`.
        models: further models by name. They are used in every transfer matrix; "transfer" needs at least one. With any
            other suite, giving models adds the transfer matrix to it.
        transfer_steps: numbers of steps. If given, `attack` must be a `PGD`, and the transfer matrix uses PGD with each
            number of steps and a step size of 2.5 epsilon / steps. If empty, it uses `attack`.
        version: version of AutoAttack.
        keep_adversarials: see `evaluate`.
        top_k: see `evaluate`.
        batch_size: see `evaluate`.
        seed: see `evaluate`.
        branch: branch of mixture batch normalisation, "clean" or "adversarial". None uses the branch with which the
            model was saved.
        dataset_name: see `evaluate`.
        journal: a folder for progress: see `evaluate`.
        verbose: show progress bars.
        compile_attack: see `evaluate`.

    Returns:
        A `Report`.

    Raises:
        ValueError: if an argument is not as described.
    """
    if suite is not None and suite not in SUITES:
        raise ValueError(f"suite must be one of {SUITES} or None. Received: suite={suite!r}")
    check_attack(attack)
    if suite in ("curve", "surface", "all") and attack.threat_model.epsilon == 0:
        raise ValueError(
            "Epsilon curves and loss surfaces need an attack with epsilon above 0. "
            f"Received: suite={suite!r} with attack={attack!r}"
        )
    if suite in ("curve", "all") and not isinstance(attack, PGD):
        raise ValueError(f"Curves need an attack of class PGD. Received: suite={suite!r} with attack={attack!r}")
    if suite == "transfer" and not models:
        raise ValueError("A transfer matrix needs a second model, in models. Received: models of length 0")
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
    """Returns the name of a model and the start of the hash of its weights, if they are known."""
    sha256 = load_classifier(model).sha256
    return name if sha256 is None else f"{name} ({sha256[:8]})"


def _with_steps(attack: Attack, numbers: Sequence[int]) -> list[Attack]:
    if not isinstance(attack, PGD):
        raise ValueError(
            f"transfer_steps need an attack of class PGD. Received: transfer_steps={numbers} with attack={attack!r}"
        )
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
    """Returns the analyses of a suite. The name of each says what it depends on, because journals compare the names."""
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
            raise ValueError(
                f"models must not use the name of the evaluated model. Received: {_short_name(model)!r} in models"
            )
        classifiers = ", ".join(_identity(name, model) for name, model in everyone.items())
        analyses[f"transfer of {'; '.join(names)} between {classifiers}"] = CheckedAnalysis(
            lambda: transfer_matrix(everyone, dataset, transferred, **options), _transfers(models, transferred)
        )
    return analyses


# The functions below check before the first attack of an evaluation whether an analysis can run. An analysis attacks
# the classifier itself (white box), even if the evaluation attacks another source.


def _white_box(setup: EvaluationSetup) -> EvaluationSetup:
    return dataclasses.replace(setup, source=setup.target)


def _is_differentiable(setup: EvaluationSetup) -> None:
    """Raises `ValueError` unless the classifier is differentiable in its images. It is traced, but not run."""
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

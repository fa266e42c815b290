"""`kr.evaluate`: clean and robust accuracy of a classifier, with the record of how they were measured.

`evaluate` checks the inputs (`inputs.py`), runs each attack over the data set (`attack_run.py`), and puts the results
into a record (`record.py`). `Report.save` (`report.py`) writes the record to a file.
"""

import dataclasses
import pathlib
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_robust.attacks import Attack
from keras_robust.core import ThreatModel
from keras_robust.core.checks import check_targets
from keras_robust.evaluation.attack_run import (
    FEW_WITHOUT_GRADIENT,
    AttackResult,
    FirstGradient,
    check_attacks,
    check_fits,
    check_gradients,
    check_restarts,
    run_attack,
)
from keras_robust.evaluation.inputs import EvaluationSetup, LoadedClassifier, prepare_evaluation
from keras_robust.evaluation.journal import Analysis, Journal, remember
from keras_robust.evaluation.masking import Check, check_of_square, run_checks
from keras_robust.evaluation.record import (
    adversarials_of,
    as_written_today,
    describe,
    describe_noise,
    fingerprint,
    make_record,
    measure_noise,
    name_attacks,
    samples_of,
    training_run,
)
from keras_robust.evaluation.report import Report
from keras_robust.evaluation.suite import Suite
from keras_robust.reports.formatting import percent


@dataclasses.dataclass(frozen=True)
class CheckedAnalysis:
    """An analysis with a check of whether it can run. `evaluate` calls the check before the first attack.

    Attributes:
        run: the analysis.
        check: takes the setup, and raises `ValueError` if the analysis cannot run in it.
    """

    run: Analysis
    check: Callable[[EvaluationSetup], Any]

    def __call__(self) -> Any:
        """Runs the analysis."""
        return self.run()


def evaluate(
    model: Any,
    dataset: Any,
    attacks: Attack | Sequence[Attack] | Suite,
    *,
    source: Any = None,
    epsilons: Any = None,
    targets: Any = None,
    keep_adversarials: bool = False,
    top_k: int = 1,
    checks: bool | None = None,
    analyses: Mapping[str, Analysis] | None = None,
    batch_size: int = 128,
    seed: int = 0,
    dataset_name: str = "",
    journal: str | pathlib.Path | None = None,
    verbose: bool = True,
    compile_attack: bool | str = "auto",
) -> Report:
    """Measures the robust accuracy of a classifier under attacks.

    An example is robust under an attack if the classifier is right on the clean image and after every restart. The
    robust accuracy is the share of examples that are robust under all attacks. It is an upper bound, because a stronger
    attack may break more examples.

    A broken example is not attacked further. Attacks that stop at a misclassification, such as APGD, drop it after a
    block of steps. Other attacks, such as PGD, are judged at their last step and drop it after a restart.

    Each attack of a list attacks all examples on which the classifier is right. The attacks of a suite run one after
    another, and each attacks only the examples that withstood the attacks before it. The accuracies of a suite are
    therefore cumulative.

    Two passes over the clean images show whether the classifier is random at inference. A random classifier is judged
    once per attack, at the end of the attack. Each attack of a list then attacks all examples, and an example is robust
    if the classifier is right in that one pass. A suite still runs one attack after another, from the examples on which
    the classifier is right in the clean pass.

    In the scope of a `tf.distribute` strategy, each batch is split over the replicas.

    Before the first attack, `evaluate` checks whether the attacks fit the images, the classes and the precision of the
    classifier, and whether checks and analyses can run.

    Args:
        model: a Keras model that maps images to logits (or a `RobustModel`), the path of a `.keras` file or SavedModel,
            or a differentiable TensorFlow function from images to logits.
        dataset: a batched `tf.data.Dataset` of (images, labels), or of dictionaries with the keys "image" and "label"
            as in TFDS, or a pair of arrays. Images: (examples, height, width, channels) floats in the bounds of the
            threat model, or another shape that the classifier takes. Labels: sparse or one-hot. The whole data set is
            kept in memory, as float32.
        attacks: an attack, a list of attacks with the same bounds, or a `Suite` such as `AutoAttack`.
        source: another model, in any form that `model` can have. The attacks run on `source`, and `model` classifies
            the attacked images (black box). None attacks `model` itself (white box).
        epsilons: (examples,) numbers: the epsilon of each example, in the units of the images. All attacks must then
            have the same threat model. None uses the epsilon of the attacks. If an attack has a step size or a start
            radius of its own, it is scaled in proportion to epsilon. SPSA's `delta` and `learning_rate` do not change.
            Attacks are not traced more often. The checks for gradient masking use these epsilons, too, except for the
            check with an unbounded attack.
        targets: the class that the attack aims at, for each example, sparse (examples,) or one-hot. It must not be the
            label. Targets need an attack that takes them, such as `PGD(target="given")`. Such an attack restarts until
            the example is classified as its target. `record["targeted_success"]` is the share of attacked examples that
            reached their target. Robust accuracy still counts every misclassification. Other attacks in the list ignore
            the targets.
        keep_adversarials: keep every attacked image, in `Report.adversarials`. This needs the memory of the images once
            per attack, and once more for the worst case.
        top_k: if above 1, top-k accuracies are measured as well. Each example is then attacked until its label is not
            among the k largest logits. An attack that stops at a misclassification (all attacks except PGD's family)
            continues with its next block of steps.
        checks: run the checks for gradient masking. None runs them for a strong suite in the white-box setting.
        analyses: functions by name, such as `lambda: iteration_curve(model, dataset, attack)`. Their results go into
            the record. The journal identifies an analysis by its name only. Change the name if the function or anything
            that the function uses changes.
        batch_size: number of examples attacked at a time, a multiple of the number of replicas.
        seed: seed of the random draws of the attacks, in [0, 2**31).
        dataset_name: name of the data set in the record, such as "mnist test".
        journal: a folder for progress. If the evaluation is killed, start it again with the same folder: it continues
            and gives the same results. It repeats about the last half minute of an attack, or the last restart of an
            attack such as PGD. Checks and analyses that were not finished start again. Delete the folder when the
            report is saved.
        verbose: show progress bars.
        compile_attack: compile attacks and classifier with XLA: True, False, or "auto", which compiles if there is a
            GPU. On CPU, XLA makes attacks slower. Use False if the classifier has an operation that XLA lacks.

    Returns:
        A `Report`.

    Warns:
        UserWarning: if an attack follows gradients of a classifier that computes in 16 bits; if an attack had no
            gradient to follow for more than 5 % of its examples; if the classifier is random at inference; if the
            logits of an image depend on the other images in its batch; or if the bounds are at least 100 apart and the
            images look divided by 255. The record's `notes` repeat the warnings about missing gradients, randomness and
            batches.

    Raises:
        ValueError: if images, labels, model, attacks, analyses, epsilons, targets or journal are not as described; if a
            weight of the model is not finite; if an attack (or, of a suite, every attack with gradients) finds no
            gradient for any example; or if an attack with several restarts does not average gradients over passes and
            the classifier is random. Nothing is measured in these cases.
    """
    start = time.perf_counter()
    suite = attacks if isinstance(attacks, Suite) else None
    given = {} if suite else check_attacks(attacks)
    threat_model = suite.threat_model if suite else next(iter(given.values())).threat_model
    further = _check_options(analyses, checks, dataset_name)
    training = training_run(model)
    setup = prepare_evaluation(
        model,
        dataset,
        threat_model.bounds,
        source=source,
        top_k=top_k,
        batch_size=batch_size,
        seed=seed,
        verbose=verbose,
        compile_attack=compile_attack,
    )
    if suite:
        given = suite.attacks_for(setup.classes)
    setup = dataclasses.replace(
        setup,
        epsilons=_check_epsilons(epsilons, given.values(), len(setup.images)),
        targets=_check_given_targets(targets, given.values(), setup.labels, setup.classes),
    )
    given = name_attacks(given, setup)
    check_fits(given.values(), setup)
    for attack in given.values():
        describe(attack)  # raises an error if the record cannot hold the settings
        check_restarts(attack, setup)
        _warn_of_precision(attack, setup.source)
    for analysis in further.values():
        if isinstance(analysis, CheckedAnalysis):
            analysis.check(setup)
    if checks is None:
        checks = bool(suite and suite.strong and setup.white_box)
    progress = None
    if journal is not None:
        progress = Journal(journal, fingerprint(setup, given, suite, [*further, str(checks)]), as_written_today)
    gradients = check_gradients(given, setup, together=suite is not None)
    noise = measure_noise(setup, len(given), cascade=suite is not None)
    results = _run(given, setup, progress, gradients, cascade=suite is not None, keep_attacked=keep_adversarials)
    notes = _notes(given, results, setup, noise)
    found = _check(setup, threat_model, given if suite else {}, results, progress) if checks else []
    parts = _analyse(further, progress, verbose)
    record = make_record(
        given,
        results,
        setup,
        suite=suite,
        checks=found,
        noise=noise,
        notes=[*setup.notes, *notes],
        analyses=[part for part, _ in parts],
        dataset_name=dataset_name,
        training=training,
        seconds=time.perf_counter() - start,
    )
    arrays = [samples_of(results, setup), *(arrays for _, arrays in parts)]
    samples = {name: array for some in arrays for name, array in some.items()}
    if not keep_adversarials:
        return Report(record, samples)
    adversarials, record["adversarial_predictions"] = adversarials_of(results, setup)
    return Report(record, samples, adversarials)


def _check_options(analyses: Any, checks: Any, dataset_name: Any) -> dict[str, Analysis]:
    """Returns the analyses by name.

    Raises:
        ValueError: if `analyses` does not map names to functions, `checks` is not a bool or None, or `dataset_name` is
            not a string.
    """
    further = {} if analyses is None else analyses
    if not isinstance(further, Mapping) or not all(
        isinstance(name, str) and callable(analysis) for name, analysis in further.items()
    ):
        raise ValueError(
            "analyses must map names to functions, such as {'curve': lambda: iteration_curve(model, dataset, attack)}. "
            f"Received: analyses={analyses!r}"
        )
    if checks is not None and not isinstance(checks, bool):
        raise ValueError(f"checks must be a bool or None. Received: checks={checks!r}")
    if not isinstance(dataset_name, str):
        raise ValueError(f"dataset_name must be a string. Received: dataset_name={dataset_name!r}")
    return dict(further)


def _check_epsilons(epsilons: Any, attacks: Iterable[Attack], examples: int) -> np.ndarray | None:
    """Returns one epsilon per example, (examples,) float32, or None.

    Raises:
        ValueError: if they are not one number per example; if the threat model does not allow one of them; if the
            attacks have different threat models; or if an attack has a step size or start radius and an epsilon of 0.
    """
    if epsilons is None:
        return None
    attacks = list(attacks)
    balls = {attack.threat_model: None for attack in attacks}
    if len(balls) > 1:
        raise ValueError(
            "If epsilons are given, all attacks must have the same threat model. "
            f"Received: attacks of {', '.join(map(str, balls))}"
        )
    values = np.asarray(epsilons)
    if values.shape != (examples,) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(
            f"epsilons must be one finite number for each of the {examples} examples. "
            f"Received: epsilons of shape {values.shape} and dtype {values.dtype}"
        )
    values = values.astype(np.float32)
    (ball,) = balls
    for end in (values.min(), values.max()):
        dataclasses.replace(ball, epsilon=float(f"{end:.6g}"))
    for attack in attacks:
        attack.resized(values)
    return values


def _check_given_targets(
    targets: Any, attacks: Iterable[Attack], labels: np.ndarray, classes: int
) -> np.ndarray | None:
    """Returns the target class of each example, (examples,) int32, or None.

    Raises:
        ValueError: if they are not one class per example; if a target is the label; if targets are given and no attack
            takes them; or if an attack needs them and there are none.
    """
    takers = [attack.name for attack in attacks if attack.aim == "given"]
    if targets is None and takers:
        raise ValueError(f"Attacks with target='given' need targets. Received: targets=None for {', '.join(takers)}")
    if targets is not None and not takers:
        raise ValueError(
            "targets need an attack that takes them, such as PGD(target='given'). "
            f"Received: targets for {', '.join(attack.name for attack in attacks)}"
        )
    return None if targets is None else check_targets(targets, labels, classes)


def _warn_of_precision(attack: Attack, source: LoadedClassifier) -> None:
    if attack.follows_gradients and source.low_precision and attack.resolved_compute_dtype != "float32":
        warnings.warn(
            f"The classifier computes in {source.low_precision}, which rounds gradients. Attacks that follow gradients "
            "are therefore weaker, and robust accuracy looks higher than it is. Use compute_dtype='float32' in the "
            "attack. "
            f"Received: {attack.name}",
            stacklevel=3,
        )


def _run(
    attacks: dict[str, Attack],
    setup: EvaluationSetup,
    journal: Journal | None,
    gradients: Mapping[str, FirstGradient],
    *,
    cascade: bool,
    keep_attacked: bool,
) -> dict[str, AttackResult]:
    """Returns the result of each attack. In a cascade, each attack starts from the ranks after the one before it."""
    results: dict[str, AttackResult] = {}
    ranks, first_ranks = setup.clean_ranks, setup.first_ranks
    for number, (name, attack) in enumerate(attacks.items()):
        before = ranks if cascade else first_ranks
        results[name] = run_attack(attack, setup, before, journal, f"attack{number}", keep_attacked=keep_attacked)
        if name in gradients:
            results[name].without_gradient = gradients[name].share_without(np.flatnonzero(before < setup.top_k))
        ranks = results[name].ranks
    return results


def _notes(
    attacks: Mapping[str, Attack],
    results: Mapping[str, AttackResult],
    setup: EvaluationSetup,
    noise: dict[str, Any] | None,
) -> list[str]:
    """Returns notes that a reader of the accuracies needs, and gives each as a warning, too."""
    notes = []
    if noise is not None:
        averages = all(getattr(attack, "eot_iter", 1) > 1 for attack in attacks.values())
        notes.append(describe_noise(noise, averages=averages))
    for name, result in results.items():
        share = result.without_gradient
        if share is not None and share > FEW_WITHOUT_GRADIENT:
            whose = "The classifier" if setup.white_box else f"The source {setup.source.description}"
            notes.append(
                f"{name} had no gradient to follow for {percent(share)} of the examples that it attacked: the gradient "
                f"was zero or not finite, and the images stayed nearly unchanged. {whose} may "
                "mask its gradients, and the true robustness may be lower. Add an attack without gradients, such as "
                "Square, or an attack with another objective."
            )
    for note in notes:
        warnings.warn(note, stacklevel=3)
    return notes


def _check(
    setup: EvaluationSetup,
    threat_model: ThreatModel,
    attacks: Mapping[str, Attack],
    results: Mapping[str, AttackResult],
    journal: Journal | None,
) -> list[dict[str, Any]]:
    """Returns the checks for gradient masking, and the check of Square if the suite `attacks` has a Square."""
    found = remember(journal, "checks", lambda: _as_record(run_checks(setup, threat_model)))[0]["checks"]
    left = {name: float(result.robust.mean()) for name, result in results.items()}
    return found if setup.is_random else [*found, *_as_record(check_of_square(attacks, left))["checks"]]


def _as_record(checks: list[Check]) -> dict[str, Any]:
    return {"checks": [dataclasses.asdict(check) for check in checks]}


def _analyse(
    analyses: Mapping[str, Analysis], journal: Journal | None, verbose: bool
) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Returns the result of each analysis: a part of the record, and arrays."""
    parts = []
    for number, (name, analysis) in enumerate(analyses.items()):
        if verbose:
            print(name, flush=True)
        parts.append(remember(journal, f"analysis{number}", analysis))
    return parts

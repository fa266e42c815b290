"""`kr.evaluate`: clean and robust accuracy of a classifier, with the record of how they were measured.

The inputs are checked (`inputs.py`), each attack is run over the data set (`attack_run.py`), and what happened is put
into a record (`record.py`).
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
    """An analysis that says before the first attack whether it can run.

    Attributes:
        run: the analysis.
        check: raises `ValueError` if it cannot run in a setup.
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

    An example is robust under an attack if it is classified correctly unattacked and after every restart; the robust
    accuracy counts those that are robust under all attacks. It is an upper bound: a stronger attack may find more.

    Broken examples leave between restarts, and between blocks of steps of the attacks that stop at a misclassification;
    PGD is judged at its last step. Several attacks each see all examples; those of a suite only the ones that the
    attacks before left, so that its accuracies are cumulative.

    Two passes of the clean images tell whether the classifier is random at inference. Such a classifier is judged once
    by each attack, at its end: an example is robust under an attack if it is right in that one pass. A suite goes on as
    published, with the examples that are right in the passes before.

    Inside the scope of a `tf.distribute` strategy each batch is spread over its replicas.

    What can be known before the first attack is checked then: whether the attacks fit the images, the classes and the
    precision of the classifier, and whether checks and analyses can run.

    Args:
        model: a Keras model of images to logits (a `RobustModel`, too), the path of a `.keras` file or SavedModel, or
            a differentiable TensorFlow function of images to logits.
        dataset: a batched `tf.data.Dataset` of (images, labels), or of dictionaries with the keys "image" and "label"
            as TFDS has them, or a pair of arrays; images are floats (examples, height, width, channels), or of another
            shape that the classifier takes, inside the attacks' bounds, labels sparse or one-hot. It is held in
            memory, as float32.
        attacks: one attack or several, of one pixel range; or a `Suite` such as `AutoAttack`.
        source: another model, in any of the forms of `model`: the examples are crafted on it and transferred (black
            box).
        epsilons: (examples,) numbers, or None: the radius of each example's ball, in the units of the images. They
            replace the epsilon of the attacks, which are of one threat model. A step size or start radius that an
            attack was given stays in proportion to it, so that the attack is the same but for the size of the ball;
            SPSA's `delta` and `learning_rate` stay as they are. Nothing is traced more often for them. The checks
            for gradient masking have these epsilons, too.
        targets: for attacks towards given targets, such as `PGD(target="given")`: the class that each example is to be
            taken for, sparse (examples,) or one-hot, never the label. Such an attack goes on with its restarts until it
            is. `record["targeted_success"]` is the share of its attacked examples for which it was; robust accuracy
            counts every misclassification as ever. Other attacks in the list do not see the targets.
        keep_adversarials: keep every attacked image, as `Report.adversarials`: as much memory as the images, for each
            attack and once more.
        top_k: above 1, accuracies among the top k are measured too, and an example is attacked until its label is not
            among them. Attacks that stop at a misclassification (all but PGD's family) go on after the next look.
        checks: run the checks for gradient masking; None does with a strong suite in the white-box setting.
        analyses: functions by name, such as `lambda: iteration_curve(model, dataset, attack)`, whose results go into
            the record, too. A name stands for all that its function depends on.
        batch_size: examples attacked at a time, a multiple of the number of replicas.
        seed: of the attacks' draws, in [0, 2**31).
        dataset_name: for the record, such as "mnist test".
        journal: a folder for progress: an evaluation that was killed goes on from it, and ends with the same results.
            What is done again is about half a minute, or a restart of PGD. Delete it when the report is saved.
        verbose: show progress bars.
        compile_attack: compile attacks and classifier with XLA: True, False, or "auto" for wherever there is a GPU. XLA
            makes attacks on CPU slower. False is for a classifier with an operation that XLA does not have.

    Returns:
        A `Report`.

    Warns:
        UserWarning: if an attack follows gradients of a classifier that computes in 16 bits, or had none to follow for
            more than 5 % of its examples; the classifier is random at inference; the logits of an image depend on the
            other images in its batch; or the bounds are those of bytes, and the images look divided by 255. The
            record's `notes` say what concerns the classifier, too.

    Raises:
        ValueError: if images, labels, model, attacks, analyses, epsilons, targets or journal are not what they must be,
            weights of the model are not finite, an attack finds no gradient to follow for any example (of a suite: if
            none of its attacks does), or has restarts, and no average over passes, of a classifier that is random;
            nothing is measured then.
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
        describe(attack)  # what a record cannot hold is refused now
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
        ValueError: if they are no functions by name, `checks` is no bool or None, or `dataset_name` no text.
    """
    further = {} if analyses is None else analyses
    if not isinstance(further, Mapping) or not all(
        isinstance(name, str) and callable(analysis) for name, analysis in further.items()
    ):
        raise ValueError(
            "analyses are functions by name, such as {'curve': lambda: iteration_curve(model, dataset, attack)}. "
            f"Received: analyses={analyses!r}"
        )
    if checks is not None and not isinstance(checks, bool):
        raise ValueError(f"checks is a bool, or None. Received: checks={checks!r}")
    if not isinstance(dataset_name, str):
        raise ValueError(f"dataset_name is a text for the record. Received: dataset_name={dataset_name!r}")
    return dict(further)


def _check_epsilons(epsilons: Any, attacks: Iterable[Attack], examples: int) -> np.ndarray | None:
    """Returns one epsilon per example, (examples,) float32, or None.

    Raises:
        ValueError: if they are not that, are outside of what the threat model allows, the attacks have several threat
            models, or an attack has lengths and an epsilon of 0.
    """
    if epsilons is None:
        return None
    attacks = list(attacks)
    balls = {attack.threat_model: None for attack in attacks}
    if len(balls) > 1:
        raise ValueError(
            "epsilons replace the epsilon of attacks of one threat model. "
            f"Received: attacks of {', '.join(map(str, balls))}"
        )
    values = np.asarray(epsilons)
    if values.shape != (examples,) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(
            f"epsilons are one finite number for each of the {examples} examples. "
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
    """Returns the class that each example is to be classified as, (examples,) int32, or None.

    Raises:
        ValueError: if they are not that, one is the label, no attack takes them, or one needs them and there are none.
    """
    takers = [attack.name for attack in attacks if attack.aim == "given"]
    if targets is None and takers:
        raise ValueError(f"An attack towards given targets needs them. Received: targets=None for {', '.join(takers)}")
    if targets is not None and not takers:
        raise ValueError(
            "targets are for attacks that take them, such as PGD(target='given'). "
            f"Received: targets for {', '.join(attack.name for attack in attacks)}"
        )
    return None if targets is None else check_targets(targets, labels, classes)


def _warn_of_precision(attack: Attack, source: LoadedClassifier) -> None:
    if attack.follows_gradients and source.low_precision and attack.resolved_compute_dtype != "float32":
        warnings.warn(
            f"The classifier computes in {source.low_precision}, in which gradients are rounded: attacks that follow "
            "them are weaker than with compute_dtype='float32', and robust accuracy looks higher than it is. "
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
    """Returns the result of each attack; in a cascade an attack gets the ranks that the one before left."""
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
    """Returns what whoever reads the accuracies must know, and warns of it."""
    notes = []
    if noise is not None:
        averages = all(getattr(attack, "eot_iter", 1) > 1 for attack in attacks.values())
        notes.append(describe_noise(noise, averages=averages))
    for name, result in results.items():
        share = result.without_gradient
        if share is not None and share > FEW_WITHOUT_GRADIENT:
            whose = "the classifier's" if setup.white_box else f"those of the source {setup.source.description}"
            notes.append(
                f"{name} had no gradient to follow, zero or not finite, for {percent(share)} of the examples that it "
                f"attacked, and left them about as they were: {whose} gradients may be masked, and the true robustness "
                "lower. Add an attack without gradients, such as Square, or one of another objective."
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
    """Returns the checks for gradient masking, with that of the Square in a suite of `attacks`."""
    found = remember(journal, "checks", lambda: _as_record(run_checks(setup, threat_model)))[0]["checks"]
    left = {name: float(result.robust.mean()) for name, result in results.items()}
    return found if setup.is_random else [*found, *_as_record(check_of_square(attacks, left))["checks"]]


def _as_record(checks: list[Check]) -> dict[str, Any]:
    return {"checks": [dataclasses.asdict(check) for check in checks]}


def _analyse(
    analyses: Mapping[str, Analysis], journal: Journal | None, verbose: bool
) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Returns what each analysis found: a part of the record, and arrays."""
    parts = []
    for number, (name, analysis) in enumerate(analyses.items()):
        if verbose:
            print(name, flush=True)
        parts.append(remember(journal, f"analysis{number}", analysis))
    return parts

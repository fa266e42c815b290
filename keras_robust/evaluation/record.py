"""Makes the record of an evaluation: accuracies, settings, results of each example, and their provenance.

`make_record` makes the contents of `record.json`. `Report.save` in `report.py` writes them to the file. `samples_of`
and `adversarials_of` choose the images that are saved beside it. `fingerprint` describes everything that the results
depend on, for the journal.
"""

import csv
import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core import ThreatModel
from keras_robust.core.serialization import Serializable, as_json, replace_unchecked
from keras_robust.evaluation.attack_run import PICTURES, AttackResult
from keras_robust.evaluation.inputs import (
    EvaluationSetup,
    LoadedClassifier,
    classify,
    digest,
    make_logits_function,
    rank_labels,
)
from keras_robust.evaluation.suite import Suite
from keras_robust.reports import wording
from keras_robust.reports.formatting import percent
from keras_robust.reports.record import wilson_interval
from keras_robust.version import __version__

SCHEMA_VERSION = 1

WORST = "worst"
"""The name of the images of the worst case, among the names of the attacks."""

CONFIG_FILE = "config.json"
HISTORY_FILE = "history.csv"
"""Files that a training run writes beside its models."""


def make_record(
    attacks: dict[str, Attack],
    results: dict[str, AttackResult],
    setup: EvaluationSetup,
    *,
    suite: Suite | None,
    checks: list[dict[str, Any]],
    noise: dict[str, Any] | None,
    notes: list[str],
    analyses: list[dict[str, Any]],
    dataset_name: str,
    training: dict[str, Any] | None,
    seconds: float,
) -> dict[str, Any]:
    """Returns the record of an evaluation, in the form of `record.json`.

    Args:
        attacks: attacks by name.
        results: their results by the same names.
        setup: the classifiers, the examples and the settings.
        suite: the suite of the attacks, or None.
        checks: results of the checks for gradient masking.
        noise: see `measure_noise`.
        notes: sentences that a reader of the accuracies must know.
        analyses: results of the analyses.
        dataset_name: name of the data set, or an empty string.
        training: see `training_run`.
        seconds: duration of the evaluation in seconds.
    """
    return {
        **_accuracies(results, setup),
        "checks": checks,
        "targeted_success": _targeted_success(results),
        "suite": None if suite is None else _describe_suite(suite, setup),
        "random": noise,
        "notes": notes,
        **_settings_and_results(attacks, results, setup),
        "analyses": analyses,
        "dataset": dataset_name or f"{len(setup.images)} examples",
        "seconds": seconds,
        **provenance(),
        "training": training,
    }


def _accuracies(results: dict[str, AttackResult], setup: EvaluationSetup) -> dict[str, Any]:
    """Returns the accuracies of the record: clean, per attack, and for the worst case per example."""
    examples, top_k = len(setup.images), setup.top_k
    worst = np.maximum.reduce([result.ranks for result in results.values()])

    def measured(k: int) -> dict[str, Any]:
        return {
            "clean_accuracy": float((setup.clean_ranks < k).mean()),
            "robust_accuracy": float((worst < k).mean()),
            "robust_accuracy_interval": list(wilson_interval(int((worst < k).sum()), examples)),
            "attacks": {name: float((result.ranks < k).mean()) for name, result in results.items()},
        }

    top = {"k": top_k, **measured(top_k)} if top_k > 1 else None
    return {"schema_version": SCHEMA_VERSION, **measured(1), "top_k": top, "examples": examples}


def _targeted_success(results: dict[str, AttackResult]) -> dict[str, float | None]:
    """Returns the share of attacked examples that reached the target, for each attack with a target.

    It is None for an attack that attacked no example.
    """
    reached = {
        name: result.reached[result.was_attacked] for name, result in results.items() if result.reached is not None
    }
    return {name: float(those.mean()) if len(those) else None for name, those in reached.items()}


def _settings_and_results(
    attacks: dict[str, Attack], results: dict[str, AttackResult], setup: EvaluationSetup
) -> dict[str, Any]:
    """Returns the settings of the evaluation, and the results of each example."""
    return {
        "threat_model": _threat_model(list(attacks.values()), setup.epsilons),
        "epsilons": None if setup.epsilons is None else setup.epsilons.tolist(),
        "targets": None if setup.targets is None else setup.targets.tolist(),
        "bounds": list(next(iter(attacks.values())).threat_model.bounds),
        "details": {name: _details(attacks[name], result) for name, result in results.items()},
        "labels": setup.sparse_labels.tolist(),
        "clean_predictions": setup.clean_predictions.tolist(),
        "model": {
            "source": setup.target.description,
            "parameters": setup.target.parameters,
            "sha256": setup.target.sha256,
        },
        "black_box_source": None if setup.white_box else setup.source.description,
        "seed": setup.seed,
        "batch_size": setup.batch_size,
        "compile_attack": setup.compile_attack,
    }


def _threat_model(attacks: list[Attack], epsilons: np.ndarray | None) -> dict[str, Any] | None:
    """Returns norm, epsilon and bounds, or None if the attacks differ in them. Epsilons per example are in words."""
    first = attacks[0].threat_model
    if any(attack.threat_model != first for attack in attacks):
        return None
    epsilon = first.epsilon if epsilons is None else wording.epsilons(epsilons)
    return {"norm": first.norm, "epsilon": epsilon, "bounds": list(first.bounds)}


def _details(attack: Attack, result: AttackResult) -> dict[str, Any]:
    aimed = {}
    if result.reached is not None:
        reached = [bool(value) if was else None for value, was in zip(result.reached, result.was_attacked, strict=True)]
        aimed = {"aim": attack.aim, "reached_target": reached}
    return {
        **aimed,
        "settings": describe(attack)["settings"],
        "seconds": result.seconds,
        "restarts": attack.restarts,
        "attacked": result.examples,
        "without_gradient": result.without_gradient,
        "predictions": result.predictions.tolist(),
        "robust": result.robust.tolist(),
        "ranks": result.ranks.tolist(),
    }


def describe(serializable: Serializable) -> dict[str, Any]:
    """Returns name and settings of an attack or suite, as values for JSON.

    Raises:
        ValueError: if JSON cannot hold the settings.
    """
    name = serializable.name  # type: ignore[attr-defined]
    resolved = serializable.resolved() if isinstance(serializable, Attack) else serializable
    try:
        return {"name": name, "settings": as_json(resolved)}
    except TypeError as error:
        raise ValueError(
            "The settings of an attack must be numbers, strings, or objects that Keras can serialise, because the "
            f"record holds them. Received: {serializable!r}"
        ) from error


def _describe_suite(suite: Suite, setup: EvaluationSetup) -> dict[str, Any]:
    described = {**describe(suite), "notes": suite.notes_for(setup.classes)}
    if setup.epsilons is not None:
        described["name"] = _renamed(suite.name, suite.threat_model, setup.epsilons)
    return described


def name_attacks(attacks: Mapping[str, Attack], setup: EvaluationSetup) -> dict[str, Attack]:
    """Returns the attacks by name. If there is one epsilon per example, the names give the range of epsilons."""
    if setup.epsilons is None:
        return dict(attacks)
    return {_with_epsilons(name, attack, setup.epsilons): attack for name, attack in attacks.items()}


def _with_epsilons(name: str, attack: Attack, epsilons: np.ndarray) -> str:
    resized = attack.resized(epsilons)
    return resized.name if name == attack.name else _renamed(name, attack.threat_model, epsilons)


def _renamed(name: str, ball: ThreatModel, epsilons: np.ndarray) -> str:
    return name.replace(str(ball), str(replace_unchecked(ball, epsilon=epsilons)))


def samples_of(results: dict[str, AttackResult], setup: EvaluationSetup) -> dict[str, np.ndarray]:
    """Returns examples of the attack that broke most: first broken examples, then examples that withstood it."""
    right = setup.clean_ranks == 0
    breaks = {name: right & (result.predictions != setup.sparse_labels) for name, result in results.items()}
    name = max(breaks, key=lambda name: breaks[name].sum())
    result, broken = results[name], np.flatnonzero(breaks[name])[: PICTURES // 2]
    held = np.flatnonzero(result.robust)[: PICTURES - len(broken)]
    chosen = np.concatenate([broken, held])
    images = setup.images[chosen]
    return {
        "images": images,
        "attacked": np.reshape([result.pictures[example] for example in chosen], images.shape).astype(images.dtype),
        "labels": setup.sparse_labels[chosen],
        "clean_predictions": setup.clean_predictions[chosen],
        "attacked_predictions": result.predictions[chosen],
        "attack_name": np.array(name),
    }


def adversarials_of(
    results: dict[str, AttackResult], setup: EvaluationSetup
) -> tuple[dict[str, np.ndarray], list[int]]:
    """Returns the attacked images by attack, with the worst case as `WORST`, and the predictions on the worst case.

    The worst case of an example is its image from the first attack that broke it, that is, after which the label was no
    longer among the top k. If no attack broke it, it is the image of the last attack. If the classifier is wrong on the
    clean image, it is the clean image.
    """
    worst, predictions = setup.images.copy(), setup.clean_predictions
    is_open = setup.clean_ranks < setup.top_k
    adversarials = {}
    for name, result in results.items():
        attacked = adversarials[name] = _kept(result)
        worst[is_open], predictions[is_open] = attacked[is_open], result.predictions[is_open]
        is_open = is_open & (result.ranks < setup.top_k)
    return {**adversarials, WORST: worst}, predictions.tolist()


def _kept(result: AttackResult) -> np.ndarray:
    if result.attacked is None:
        raise ValueError(
            "run_attack must be called with keep_attacked=True. Received: a result without attacked images"
        )
    return result.attacked


def fingerprint(
    setup: EvaluationSetup, attacks: dict[str, Attack], suite: Suite | None, more: list[str]
) -> dict[str, Any]:
    """Returns everything that the results depend on, by names that a user knows.

    Args:
        setup: the classifiers, the examples and the settings.
        attacks: attacks by name.
        suite: the suite of the attacks, or None.
        more: names of the analyses, and whether checks are run.
    """
    return {
        "keras_robust": __version__,
        "dataset": digest(setup.images, setup.sparse_labels),
        "model": _identity(setup.target, setup),
        "source": None if setup.white_box else _identity(setup.source, setup),
        "attacks": [[name, describe(attack)] for name, attack in attacks.items()],
        "epsilons": None if setup.epsilons is None else digest(setup.epsilons),
        "targets": None if setup.targets is None else digest(setup.targets),
        "suite": None if suite is None else describe(suite),
        "checks or analyses": more,
        "top_k": setup.top_k,
        "batch_size": setup.batch_size,
        "compile_attack": setup.compile_attack,
        "seed": setup.seed,
        "number of replicas": setup.strategy.num_replicas_in_sync,
    }


def as_written_today(found: dict[str, Any]) -> dict[str, Any]:
    """Converts the fingerprint of an older journal to the current form, so that its evaluation can continue.

    Older journals have fewer settings. The missing settings get their defaults, with which the results are the same. If
    they are not the same, as for Square in AutoAttack, the settings differ, and `Journal` refuses the old progress.
    Attacks and suites that cannot be built, and attacks with targets, are not converted, so that `Journal` refuses
    them. The older progress of attacks with targets does not say which targets were reached.
    """
    if "compile_attack" in found:
        return found
    attacks = []
    for name, described in found["attacks"]:
        today = _described_today(described)
        attacks.append([today["name"] if name == described["name"] else name, today])
    suite = found["suite"] and _described_today(found["suite"])
    return {**found, "compile_attack": "auto", "attacks": attacks, "suite": suite}


def _described_today(described: dict[str, Any]) -> dict[str, Any]:
    try:
        serializable = keras.saving.deserialize_keras_object(described["settings"])
    except (TypeError, ValueError):
        return described
    return described if getattr(serializable, "aim", None) else describe(serializable)


def _identity(classifier: LoadedClassifier, setup: EvaluationSetup) -> list[str | None]:
    """Returns description, hash of the weights, and hash of the clean predictions, which identify a classifier.

    A function has no hash of weights: only its predictions identify it.
    """
    predictions = setup.clean_predictions
    if classifier is not setup.target:
        logits = make_logits_function(classifier, setup.batch_size, setup.strategy, setup.compile_attack)(setup.images)
        predictions = classify(logits).numpy()
    return [classifier.description, classifier.sha256, digest(predictions)]


def measure_noise(setup: EvaluationSetup, attacks: int, *, cascade: bool) -> dict[str, Any] | None:
    """Measures how random the target is, and how much its noise alone lowers the robust accuracy.

    Args:
        setup: the classifiers and the examples.
        attacks: number of attacks.
        cascade: whether the attacks form a suite, so that the clean pass is a judgement, too.

    Returns:
        None if the target is not random. Otherwise `change_of_logits` (as a share of the largest logit), `judgements`
        (number of passes in which an example must be right to count as robust) and `right_in_all` (share of clean
        images that are right in as many passes).
    """
    if not setup.is_random:
        return None
    judgements = attacks + cascade
    logits_of = make_logits_function(setup.target, setup.batch_size, setup.strategy)
    right = setup.clean_ranks == 0
    for _ in range(judgements - 1):
        right &= (rank_labels(logits_of(setup.images), setup.sparse_labels) == 0).numpy()
    return {"change_of_logits": setup.change, "judgements": judgements, "right_in_all": float(right.mean())}


def describe_noise(noise: dict[str, Any], *, averages: bool) -> str:
    """Returns the result of `measure_noise` as a note.

    Args:
        noise: the result of `measure_noise`.
        averages: whether all attacks average gradients over passes.
    """
    judgements = noise["judgements"]
    note = (
        f"The classifier is random at inference: logits of the same images differ by {noise['change_of_logits']:.2g} "
        "of the largest between two passes. Each attack was judged once, in one pass."
    )
    if judgements > 1:
        note += (
            f" The robust accuracy counts examples that were right in {judgements} passes, and noise alone lowers it: "
            f"{percent(noise['right_in_all'])} of the clean images are right in {judgements} passes."
        )
    if not averages:
        note += (
            " The gradients of a single pass are noisy. Average them over several passes, with `eot_iter` of PGD or "
            "APGD, or use AutoAttack's version 'rand'."
        )
    return note


def provenance() -> dict[str, Any]:
    """Returns versions, git commit, command, devices, threads, and the time in ISO 8601."""
    return {
        "versions": {
            "keras_robust": __version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
        "command": shlex.join(sys.argv),
        "devices": devices(),
        "threads": threads(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def devices() -> list[str]:
    """Returns the devices that TensorFlow computes on, such as "CPU" and "GPU NVIDIA H200"."""
    details = tf.config.experimental.get_device_details
    return [
        " ".join([device.device_type, *filter(None, [details(device).get("device_name")])])
        for device in tf.config.list_physical_devices()
    ]


def threads() -> dict[str, int]:
    """Returns the number of CPU threads that share an operation ("intra_op") and that run operations ("inter_op").

    If a number was not set, TensorFlow reports 0 and uses the environment variable, or one thread per core.
    """
    told = tf.config.threading
    numbers = {
        "intra_op": (told.get_intra_op_parallelism_threads(), "TF_NUM_INTRAOP_THREADS"),
        "inter_op": (told.get_inter_op_parallelism_threads(), "TF_NUM_INTEROP_THREADS"),
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {name: number or int(os.environ.get(variable) or 0) or cores for name, (number, variable) in numbers.items()}


def commit() -> str | None:
    """Returns the git commit of the toolkit, or None outside of a checkout. "+changes" marks changed files."""
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def training_run(model: Any) -> dict[str, Any] | None:
    """Returns config and history of the training run that saved `model`.

    It is None if `model` is not a path, or if the two files are not both beside it.

    Raises:
        ValueError: if the files cannot be read.
    """
    if not isinstance(model, str | pathlib.Path):
        return None
    folder = pathlib.Path(model).parent
    if not (folder / CONFIG_FILE).exists() or not (folder / HISTORY_FILE).exists():
        return None
    try:
        return {
            "config": json.loads((folder / CONFIG_FILE).read_text()),
            "history": read_history(folder / HISTORY_FILE),
        }
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{CONFIG_FILE} and {HISTORY_FILE} beside a model must be those of the run that trained it: JSON, and a "
            f"table of numbers. Repair them, or move the model elsewhere. Received: {folder} with the error {error}"
        ) from error


def read_history(path: pathlib.Path) -> dict[str, list[float]]:
    """Returns the columns of a training run's CSV file, with one value per epoch."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}

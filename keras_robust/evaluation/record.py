"""The parts of an evaluation record, as `record.json` holds them."""

import json
from typing import Any

import keras
import numpy as np

from keras_robust.attacks import Attack
from keras_robust.core.serialization import Serializable
from keras_robust.evaluation.journal import digest
from keras_robust.evaluation.ranks import classify, rank_labels
from keras_robust.evaluation.runner import PICTURES, AttackResult
from keras_robust.evaluation.setting import Setting, make_classify
from keras_robust.evaluation.subject import Subject
from keras_robust.evaluation.suite import Suite
from keras_robust.reports import wording
from keras_robust.reports.formatting import percent
from keras_robust.reports.wilson import wilson_interval
from keras_robust.version import __version__

SCHEMA_VERSION = 1
WORST = "worst"
"""The name, among those of the attacks, of the images of the worst case."""


def fingerprint(setting: Setting, attacks: dict[str, Attack], suite: Suite | None, more: list[str]) -> dict[str, Any]:
    """Returns all that the results depend on, by the names that a user knows; `more` names checks and analyses."""
    return {
        "keras_robust": __version__,
        "dataset": digest(setting.images, setting.sparse_labels),
        "model": _identity(setting.target, setting),
        "source": None if setting.white_box else _identity(setting.source, setting),
        "attacks": [[name, describe(attack)] for name, attack in attacks.items()],
        "epsilons": None if setting.epsilons is None else digest(setting.epsilons),
        "targets": None if setting.targets is None else digest(setting.targets),
        "suite": None if suite is None else describe(suite),
        "checks or analyses": more,
        "top_k": setting.top_k,
        "batch_size": setting.batch_size,
        "compile_attack": setting.compile_attack,
        "seed": setting.seed,
        "number of replicas": setting.strategy.num_replicas_in_sync,
    }


def as_written_today(found: dict[str, Any]) -> dict[str, Any]:
    """Returns a fingerprint as this version writes it, so that an evaluation of version 0.1 goes on.

    That version had fewer settings; those that it lacked have their defaults, under which this version computes the
    same. (Where it does not, as for Square in AutoAttack, the settings differ.) Suites and attacks that cannot be
    built, and attacks with an aim, stay as they are and are refused: that progress does not say which targets were
    reached.
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


def noise_of(setting: Setting, attacks: int, *, cascade: bool) -> dict[str, Any] | None:
    """Returns how random the target is, and what its noise alone takes from a robust accuracy; None if it is not.

    Args:
        setting: who is attacked.
        attacks: how many attacks there are.
        cascade: whether the clean pass is a judgement, too.

    Returns:
        `change_of_logits`, as a share of the largest; `judgements`, in all of which an example must be right; and
        `right_in_all`, the share of clean images that are right in as many passes.
    """
    if not setting.is_random:
        return None
    judgements = attacks + cascade
    classify_images = make_classify(setting.target, setting.batch_size, setting.strategy)
    right = setting.clean_ranks == 0
    for _ in range(judgements - 1):
        right &= (rank_labels(classify_images(setting.images), setting.sparse_labels) == 0).numpy()
    return {"change_of_logits": setting.change, "judgements": judgements, "right_in_all": float(right.mean())}


def of_noise(noise: dict[str, Any], *, averages: bool) -> str:
    """Returns what `noise_of` found in words; `averages` says that all attacks average gradients over passes."""
    judgements = noise["judgements"]
    note = (
        f"The classifier is random at inference: logits of the same images differ by {noise['change_of_logits']:.2g} "
        "of the largest between two passes. Each attack was judged once, in one pass."
    )
    if judgements > 1:
        note += (
            f" The robust accuracy counts what was right in {judgements} passes, and noise alone takes some of it: of "
            f"the clean images {percent(noise['right_in_all'])} are right in {judgements} passes."
        )
    if not averages:
        note += (
            " Gradients of a single pass are noisy: use AutoAttack's version 'rand', or average them (`eot_iter` of "
            "PGD and APGD)."
        )
    return note


def _identity(subject: Subject, setting: Setting) -> list[str | None]:
    """Returns what tells a classifier from others: of a function, these are its predictions."""
    predictions = setting.clean_predictions
    if subject is not setting.target:
        logits = make_classify(subject, setting.batch_size, setting.strategy, setting.compile_attack)(setting.images)
        predictions = classify(logits).numpy()
    return [subject.description, subject.sha256, digest(predictions)]


def accuracies(results: dict[str, AttackResult], setting: Setting) -> dict[str, Any]:
    """Returns the accuracies of the record, unattacked, per attack and in the worst case per example."""
    examples, top_k = len(setting.images), setting.top_k
    worst = np.maximum.reduce([result.ranks for result in results.values()])

    def measured(k: int) -> dict[str, Any]:
        return {
            "clean_accuracy": float((setting.clean_ranks < k).mean()),
            "robust_accuracy": float((worst < k).mean()),
            "robust_accuracy_interval": list(wilson_interval(int((worst < k).sum()), examples)),
            "attacks": {name: float((result.ranks < k).mean()) for name, result in results.items()},
        }

    top = {"k": top_k, **measured(top_k)} if top_k > 1 else None
    return {"schema_version": SCHEMA_VERSION, **measured(1), "top_k": top, "examples": examples}


def settings_and_results(
    attacks: dict[str, Attack], results: dict[str, AttackResult], setting: Setting
) -> dict[str, Any]:
    """Returns who was attacked and how, and what happened to each example."""
    return {
        "threat_model": _threat_model(list(attacks.values()), setting.epsilons),
        "epsilons": None if setting.epsilons is None else setting.epsilons.tolist(),
        "targets": None if setting.targets is None else setting.targets.tolist(),
        "bounds": list(next(iter(attacks.values())).threat_model.bounds),
        "details": {name: _details(attacks[name], result) for name, result in results.items()},
        "labels": setting.sparse_labels.tolist(),
        "clean_predictions": setting.clean_predictions.tolist(),
        "model": {
            "source": setting.target.description,
            "parameters": setting.target.parameters,
            "sha256": setting.target.sha256,
        },
        "black_box_source": None if setting.white_box else setting.source.description,
        "seed": setting.seed,
        "batch_size": setting.batch_size,
        "compile_attack": setting.compile_attack,
    }


def targeted_success(results: dict[str, AttackResult]) -> dict[str, float | None]:
    """Returns by attack with an aim the share of the attacked examples that reached it, or None if there were none."""
    reached = {
        name: result.reached[result.was_attacked] for name, result in results.items() if result.reached is not None
    }
    return {name: float(those.mean()) if len(those) else None for name, those in reached.items()}


def _threat_model(attacks: list[Attack], epsilons: np.ndarray | None) -> dict[str, Any] | None:
    """Returns norm, epsilon and bounds where all attacks share them; of epsilons by example, in words."""
    first = attacks[0].threat_model
    if any(attack.threat_model != first for attack in attacks):
        return None
    epsilon = first.epsilon if epsilons is None else wording.epsilons(epsilons)
    return {"norm": first.norm, "epsilon": epsilon, "bounds": list(first.bounds)}


def describe(serializable: Serializable) -> dict[str, Any]:
    """Returns name and settings of an attack or a suite, as JSON holds them.

    Raises:
        ValueError: if JSON cannot hold them.
    """
    name = serializable.name  # type: ignore[attr-defined]
    resolved = serializable.resolved() if isinstance(serializable, Attack) else serializable
    try:
        return {"name": name, "settings": json.loads(json.dumps(keras.saving.serialize_keras_object(resolved)))}
    except TypeError as error:
        raise ValueError(
            "A record holds the settings of each attack, so they are numbers, texts, or objects that Keras can "
            f"serialise. Received: {serializable!r}"
        ) from error


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


def adversarials_of(results: dict[str, AttackResult], setting: Setting) -> tuple[dict[str, np.ndarray], list[int]]:
    """Returns the attacked images by attack, those of the worst case as `WORST`, and the predictions of the latter.

    The worst case of an example is its image under the first attack that broke it: that took its label out of the top
    k. Of an example that none broke it is the image of the last attack; of one that was wrong unattacked, the clean
    image.
    """
    worst, predictions = setting.images.copy(), setting.clean_predictions
    is_open = setting.clean_ranks < setting.top_k
    adversarials = {}
    for name, result in results.items():
        attacked = adversarials[name] = _kept(result)
        worst[is_open], predictions[is_open] = attacked[is_open], result.predictions[is_open]
        is_open = is_open & (result.ranks < setting.top_k)
    return {**adversarials, WORST: worst}, predictions.tolist()


def _kept(result: AttackResult) -> np.ndarray:
    if result.attacked is None:
        raise ValueError("Attacked images were not kept. Received: a result of run_attack without keep_attacked")
    return result.attacked


def samples_of(results: dict[str, AttackResult], setting: Setting) -> dict[str, np.ndarray]:
    """Returns examples of the attack that broke most: broken ones first, then ones that it could not break."""
    right = setting.clean_ranks == 0
    breaks = {name: right & (result.predictions != setting.sparse_labels) for name, result in results.items()}
    name = max(breaks, key=lambda name: breaks[name].sum())
    result, broken = results[name], np.flatnonzero(breaks[name])[: PICTURES // 2]
    held = np.flatnonzero(result.robust)[: PICTURES - len(broken)]
    chosen = np.concatenate([broken, held])
    images = setting.images[chosen]
    return {
        "images": images,
        "attacked": np.reshape([result.pictures[example] for example in chosen], images.shape).astype(images.dtype),
        "labels": setting.sparse_labels[chosen],
        "clean_predictions": setting.clean_predictions[chosen],
        "attacked_predictions": result.predictions[chosen],
        "attack_name": np.array(name),
    }

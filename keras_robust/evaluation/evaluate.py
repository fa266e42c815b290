"""`kr.evaluate`: clean and robust accuracy of a classifier, with the record of how they were measured."""

import json
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_robust.attacks import Attack
from keras_robust.core.checks import check_labels, check_logits
from keras_robust.core.labels import as_sparse
from keras_robust.evaluation.examples import load_examples
from keras_robust.evaluation.provenance import provenance, training_run
from keras_robust.evaluation.report import Report
from keras_robust.evaluation.runner import AttackResult, predict, run_attack
from keras_robust.evaluation.subject import as_subject

SCHEMA_VERSION = 1
SAMPLES = 8
"""So many examples are kept as pictures: half of them broken, if there are as many."""


def evaluate(
    model: Any,
    dataset: Any,
    attacks: Attack | Sequence[Attack],
    *,
    source: Any = None,
    batch_size: int = 128,
    seed: int = 0,
    dataset_name: str = "",
    verbose: bool = True,
) -> Report:
    """Measures the robust accuracy of a classifier under attacks.

    An example is robust under an attack if it is classified correctly unattacked and after every restart; the robust
    accuracy counts those that are robust under all attacks. It is an upper bound: a stronger attack may find more.

    Args:
        model: a Keras model of images to logits (a `RobustModel`, too), the path of a `.keras` file or SavedModel, or
            a differentiable TensorFlow function of images to logits.
        dataset: a batched `tf.data.Dataset` of (images, labels) or a pair of arrays; images are floats (examples,
            height, width, channels) inside the attacks' bounds, labels sparse or one-hot. It is held in memory.
        attacks: one attack or several, of one pixel range.
        source: another model, in any of the forms of `model`: the examples are crafted on it and transferred (black
            box).
        batch_size: examples attacked at a time.
        seed: of the attacks' draws, in [0, 2**31).
        dataset_name: for the record, such as "mnist test".
        verbose: show progress bars.

    Returns:
        A `Report`.

    Raises:
        ValueError: if images, labels, model or attacks are not what they must be; nothing is measured then.
    """
    start = time.perf_counter()
    attacks = _check_attacks(attacks)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is an integer of at least 1. Received: batch_size={batch_size!r}")
    target = as_subject(model)
    crafting = target if source is None else as_subject(source)
    for attack in attacks:
        crafting.model_fn_for(attack.compute_dtype)
    images, labels = load_examples(dataset, attacks[0].threat_model.bounds, target)
    target_fn = target.model_fn_for(None)
    clean_predictions, logits = predict(target_fn, images, batch_size)
    check_logits(logits, len(logits))
    check_labels(labels, logits.shape[1], len(images))
    sparse_labels = as_sparse(labels).numpy()
    results = {}
    for attack in attacks:
        if verbose:
            print(f"{attack.name}, {'white box' if source is None else 'black box'}", flush=True)
        results[attack.name] = run_attack(
            attack,
            crafting.model_fn_for(attack.compute_dtype),
            target_fn,
            images,
            labels,
            sparse_labels,
            clean_predictions,
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
        )
    record = {
        **_accuracies(results, clean_predictions == sparse_labels),
        "threat_model": _threat_model(attacks),
        "details": {attack.name: _details(attack, results[attack.name]) for attack in attacks},
        "labels": sparse_labels.tolist(),
        "clean_predictions": clean_predictions.tolist(),
        "model": {"source": target.description, "parameters": target.parameters},
        "black_box_source": None if source is None else crafting.description,
        "dataset": dataset_name or f"{len(images)} examples",
        "seed": seed,
        "batch_size": batch_size,
        "seconds": time.perf_counter() - start,
        **provenance(),
        "training": training_run(model),
    }
    return Report(record, _samples(results, images, sparse_labels, clean_predictions))


def _check_attacks(attacks: Any) -> list[Attack]:
    attacks = (
        [attacks] if isinstance(attacks, Attack) else list(attacks) if isinstance(attacks, list | tuple) else attacks
    )
    if not isinstance(attacks, list) or not attacks or not all(isinstance(attack, Attack) for attack in attacks):
        raise ValueError(f"attacks is an Attack or a list of them. Received: attacks={attacks!r}")
    names = [attack.name for attack in attacks]
    if len(set(names)) != len(names):
        raise ValueError(f"Each attack is listed once. Received: {names}")
    bounds = {attack.threat_model.bounds for attack in attacks}
    if len(bounds) > 1:
        raise ValueError(f"All attacks have one pixel range. Received: bounds {sorted(bounds)}")
    return attacks


def _accuracies(results: dict[str, AttackResult], clean_right: np.ndarray) -> dict[str, Any]:
    worst = np.logical_and.reduce([result.robust for result in results.values()])
    return {
        "schema_version": SCHEMA_VERSION,
        "clean_accuracy": float(clean_right.mean()),
        "robust_accuracy": float(worst.mean()),
        "attacks": {name: float(result.robust.mean()) for name, result in results.items()},
        "checks": [],
        "examples": len(clean_right),
    }


def _threat_model(attacks: list[Attack]) -> dict[str, Any] | None:
    """Returns norm, epsilon and bounds where all attacks share them."""
    first = attacks[0].threat_model
    if any(attack.threat_model != first for attack in attacks):
        return None
    return {"norm": first.norm, "epsilon": first.epsilon, "bounds": list(first.bounds)}


def _details(attack: Attack, result: AttackResult) -> dict[str, Any]:
    return {
        "settings": json.loads(json.dumps(keras.saving.serialize_keras_object(attack))),
        "seconds": result.seconds,
        "restarts": attack.restarts,
        "predictions": result.predictions.tolist(),
        "robust": result.robust.tolist(),
    }


def _samples(
    results: dict[str, AttackResult], images: np.ndarray, labels: np.ndarray, clean_predictions: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns examples of the strongest attack: broken ones first, then ones that it could not break."""
    name, result = min(results.items(), key=lambda item: item[1].robust.mean())
    right = clean_predictions == labels
    broken = np.flatnonzero(right & ~result.robust)[: SAMPLES // 2]
    held = np.flatnonzero(result.robust)[: SAMPLES - len(broken)]
    chosen = np.concatenate([broken, held])
    return {
        "images": images[chosen],
        "attacked": result.attacked[chosen],
        "labels": labels[chosen],
        "clean_predictions": clean_predictions[chosen],
        "attacked_predictions": result.predictions[chosen],
        "attack_name": np.array(name),
    }

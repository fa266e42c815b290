"""Statistics of a batch normalisation: its moving averages, and those of single batches of attacked images.

facts = kr.evaluation.normalization_statistics(model, test, attack)
print(facts["verdict"])
"""

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core.checks import check_integer
from keras_robust.evaluation.attack_run import check_attack, check_fits, check_gradients, craft
from keras_robust.evaluation.inputs import as_keras_classifier, prepare_evaluation
from keras_robust.layers import (
    ADVERSARIAL,
    BRANCHES,
    CLEAN,
    MixtureBatchNormalization,
    check_functional,
    has_branches,
    use_branch,
)

KINDS = (keras.layers.BatchNormalization, MixtureBatchNormalization)


def normalization_statistics(
    model: Any,
    dataset: Any,
    attack: Attack,
    *,
    layer: str | None = None,
    channels: int = 20,
    batch_size: int = 128,
    seed: int = 0,
    compile_attack: bool | str = "auto",
) -> dict[str, Any]:
    """Compares means and variances of randomly chosen channels (Xie & Yuille, 2020, figures 5 and 6).

    It compares the moving averages of the layer with the statistics of two batches of attacked images. If the layer has
    two branches, the moving averages of both are compared. The images pass the layers before it in inference mode, and
    through the adversarial branch.

    Args:
        model: a `RobustModel`, a functional or sequential classifier, or the path of a `.keras` file of one of these.
        dataset: see `evaluate`. It must have at least two batches.
        attack: see `evaluate`.
        layer: name of a batch normalisation. None is the layer in the middle of the classifier's batch normalisations.
        channels: number of channels that are drawn. All are used if there are fewer.
        batch_size: number of images per batch.
        seed: seed of the channels and of the attack, in [0, 2**31).
        compile_attack: see `evaluate`.

    Returns:
        A dictionary of plain Python values: `kind` ("normalization_statistics"), `layer`, `attack` (its name),
        `channels` (their numbers), `series` (each with `name`, `mean` and `variance`, with one value per channel),
        `verdict` (a sentence) and `seconds`.

    Raises:
        ValueError: if there is no such layer, or an argument is not as described.
    """
    begin = time.perf_counter()
    check_attack(attack)
    check_integer("channels", channels)
    classifier, chosen = classifier_and_layer(model, layer)
    with use_branch(ADVERSARIAL if has_branches(classifier) else None):
        bounds = attack.threat_model.bounds
        options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "compile_attack": compile_attack}
        setup = prepare_evaluation(classifier, dataset, bounds, **options, verbose=False).first(2 * batch_size)
        check_two_batches(len(setup.images), batch_size)
        check_fits([attack], setup)
        check_gradients({attack.name: attack}, setup)
        attacked = next(craft(attack, setup))
        features = keras.Model(classifier.inputs, chosen.input)(tf.constant(attacked), training=False)
    series = _moving_averages(chosen)
    axes = tuple(range(len(features.shape) - 1))
    for index, part in enumerate(np.split(features.numpy(), 2)):
        series.append((f"batch {index + 1}, attacked", part.mean(axis=axes), part.var(axis=axes)))
    count = len(series[0][1])
    numbers = np.sort(np.random.default_rng(seed).permutation(count)[:channels])
    return {
        "kind": "normalization_statistics",
        "layer": chosen.name,
        "attack": attack.name,
        "channels": numbers.tolist(),
        "series": [
            {"name": name, "mean": mean[numbers].tolist(), "variance": variance[numbers].tolist()}
            for name, mean, variance in series
        ],
        "verdict": _verdict(series),
        "seconds": time.perf_counter() - begin,
    }


def check_two_batches(images: int, batch_size: int) -> None:
    """Raises `ValueError` if there are not enough images for two batches."""
    if images < 2 * batch_size:
        raise ValueError(
            f"dataset must have at least {2 * batch_size} images, for two batches. Received: {images} images"
        )


def classifier_and_layer(model: Any, name: str | None = None) -> tuple[keras.Layer, keras.Layer]:
    """Returns the classifier of a model, and one of its batch normalisations.

    Args:
        model: see `normalization_statistics`.
        name: name of the layer. None is the layer in the middle.

    Raises:
        ValueError: if the layers of the classifier cannot be inspected, or there is no such layer.
    """
    classifier = as_keras_classifier(model)
    return classifier, _layer(classifier, name)


def _layer(classifier: keras.Layer, name: str | None) -> keras.Layer:
    check_functional(classifier)
    found = {layer.name: layer for layer in classifier.layers if isinstance(layer, KINDS)}
    if not found or (name is not None and name not in found):
        raise ValueError(
            f"layer must be the name of a batch normalisation, one of {sorted(found)}. Received: layer={name!r}"
        )
    return found[name] if name is not None else list(found.values())[len(found) // 2]


def _moving_averages(layer: keras.Layer) -> list[tuple[str, np.ndarray, np.ndarray]]:
    if isinstance(layer, MixtureBatchNormalization):
        branches = [(f"moving average, {branch}", getattr(layer, branch)) for branch in BRANCHES]
    else:
        branches = [("moving average", layer)]
    convert = keras.ops.convert_to_numpy
    return [(name, convert(norm.moving_mean), convert(norm.moving_variance)) for name, norm in branches]


def _verdict(series: list[tuple[str, np.ndarray, np.ndarray]]) -> str:
    *averages, first, _ = series
    sentences = []
    if len(averages) == 2:
        ratio = float(np.median(averages[BRANCHES.index(ADVERSARIAL)][2] / averages[BRANCHES.index(CLEAN)][2]))
        sentences.append(f"Variance of attacked images: {ratio:.2f} times that of clean ones (median channel).")
    own = averages[-1]
    ratio = float(np.median(first[2] / own[2]))
    sentences.append(f"Variance of a batch of attacked images: {ratio:.2f} times the moving average (median channel).")
    return " ".join(sentences)

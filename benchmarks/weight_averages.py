r"""Measures averaged weights of a network with batch normalisation, with four choices of its statistics.

    python benchmarks/weight_averages.py --momenta=0.99,0.995,0.999

A small network trains adversarially on the embedded digits with an optimizer that averages the weights. Each row is one
momentum of the average. It has the accuracy on clean test digits and under PGD-20 of the last weights, and of the
averaged weights with four choices: their own statistics (with which `fit` ends), the statistics of the last weights,
averaged statistics, and statistics estimated again in training mode on attacked training digits. A momentum takes about
two minutes.
"""

import json
import math
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import keras_robust as kr
from keras_robust.methods.weight_averages import averaged_weights, statistics_of

MOMENTA = flags.DEFINE_list("momenta", ["0.99", "0.995", "0.999"], "Momenta of the weight average.")
UPDATES = flags.DEFINE_integer("updates", 1200, "Training steps.")
BATCH = flags.DEFINE_integer("batch", 64, "Images per step.")

BALL = kr.Linf(0.1)
BATCHES_ANEW = 20
"""Of attacked images, whose statistics are averaged."""


def network() -> keras.Model:
    """Returns two convolutions with batch normalisation of Keras's default momentum, 0.99."""
    layers: list[keras.Layer] = [keras.Input((28, 28, 1))]
    for filters in (16, 32):
        layers += [
            keras.layers.Conv2D(filters, 5, 2, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)])


def arrays(split: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a split of the embedded digits."""
    batches = list(kr.data.evaluation_batches("mnist_small", split, batch_size=500, data_dir=data_dir))
    images, labels = (np.concatenate([np.asarray(batch[index]) for batch in batches]) for index in (0, 1))
    return images, labels


def estimate_anew(model: kr.RobustModel, images: np.ndarray, labels: np.ndarray) -> None:
    """Sets the statistics to the mean of those of attacked batches, with the weights that the model has."""
    normalizations = [n for n in model.classifier.layers if isinstance(n, keras.layers.BatchNormalization)]
    attack = tf.function(lambda x, y: model.attack(kr.attacks.as_model_fn(model.classifier), x, y, 0))
    size = BATCH.value
    attacked = [attack(images[i : i + size], labels[i : i + size]) for i in range(0, BATCHES_ANEW * size, size)]
    momenta = [layer.momentum for layer in normalizations]
    for number, batch in enumerate(attacked):
        for layer in normalizations:
            layer.momentum = number / (number + 1)
        model.classifier(batch, training=True)
    for layer, momentum in zip(normalizations, momenta, strict=True):
        layer.momentum = momentum


def measure(momentum: float, train: tuple[np.ndarray, ...], test: tuple[np.ndarray, ...]) -> dict[str, object]:
    """Trains with one momentum; returns percentages, clean and robust, by name of the weights and statistics."""
    keras.utils.set_random_seed(0)
    model = kr.AdversarialTraining(
        network(), kr.attacks.PGD(BALL, steps=5), validation_attack=kr.attacks.PGD(BALL, steps=20)
    )
    optimizer = keras.optimizers.Adam(1e-3, use_ema=True, ema_momentum=momentum)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    results: dict[str, object] = {"ema_momentum": momentum, "updates": UPDATES.value}

    def judge(name: str) -> None:
        got = model.evaluate(*test, batch_size=500, verbose=0, return_dict=True)
        results[name] = [round(100 * got[key], 1) for key in ("accuracy", "robust_accuracy")]

    class AtEnd(keras.callbacks.Callback):
        """Judges before `fit` puts the averages in."""

        def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
            self.averaged: list[np.ndarray] = []

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            values = [np.array(value) for value in statistics_of(model.classifier)]
            pairs = zip(self.averaged or values, values, strict=True)
            self.averaged = [momentum * average + (1.0 - momentum) * value for average, value in pairs]

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            if epoch + 1 < self.params["epochs"]:
                return
            statistics = statistics_of(model.classifier)
            last = [np.array(value) for value in statistics]
            judge("last weights")
            with averaged_weights(model):
                judge("averages, own statistics")
                for name, values in (("last", last), ("averaged", self.averaged)):
                    for variable, value in zip(statistics, values, strict=True):
                        variable.assign(value)
                    judge(f"averages, {name} statistics")
                estimate_anew(model, *train)
                judge("averages, statistics anew")

    per_epoch = len(train[0]) // BATCH.value
    data = tf.data.Dataset.from_tensor_slices(train).shuffle(len(train[0]), seed=0).batch(BATCH.value, True).repeat()
    epochs = max(1, math.ceil(UPDATES.value / per_epoch))
    model.fit(data, epochs=epochs, steps_per_epoch=UPDATES.value // epochs, callbacks=[AtEnd()], verbose=0)
    return results


def main(_: list[str]) -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as data_dir:
        train, test = arrays("train", data_dir), arrays("test", data_dir)
        for momentum in MOMENTA.value:
            print(json.dumps(measure(float(momentum), train, test)), flush=True)


if __name__ == "__main__":
    app.run(main)

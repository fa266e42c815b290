"""What each of two workers runs, and one process with one or two replicas, to be compared.

Usage:  TF_CONFIG=... python two_workers.py OUTPUT.npz
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import keras_robust as kr

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EXAMPLES, BATCH, STEPS = 200, 16, 20


def make_classifier() -> keras.Model:
    """Returns a classifier without batch normalisation, and without ties of max-pooling, which rounding decides."""
    initializer = keras.initializers.GlorotUniform
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, 2, activation="relu", kernel_initializer=initializer(0)),
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_initializer=initializer(1)),
        ]
    )


def make_data() -> tf.data.Dataset:
    """Returns batches of random images, the last one smaller."""
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(EXAMPLES, 8, 8, 1)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((images, rng.integers(0, 3, EXAMPLES))).batch(BATCH)


def logit_pairing(random_start: str) -> kr.RobustModel:
    """Returns adversarial logit pairing with a validation attack."""
    still = kr.attacks.PGD(kr.Linf(0.1), steps=2, random_start="none")
    attack = kr.attacks.PGD(kr.Linf(0.1), steps=2, random_start=random_start)
    return kr.AdversarialLogitPairing(make_classifier(), attack, validation_attack=still)


def free_training() -> kr.RobustModel:
    """Returns a method that keeps tensors on every replica."""
    return kr.FreeAdversarialTraining(make_classifier(), kr.attacks.FGSM(kr.Linf(0.1)), replays=2)


def train(strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """Returns weights and metrics of three short trainings."""
    results = {}
    data = make_data()
    makers = {"still": lambda: logit_pairing("none"), "random": lambda: logit_pairing("uniform"), "free": free_training}
    for name, make in makers.items():
        with strategy.scope():
            model = make()
            model.compile(keras.optimizers.SGD(0.1, momentum=0.9), SPARSE, metrics=["accuracy"])
        history = model.fit(
            data.take(10).repeat(), validation_data=data, steps_per_epoch=STEPS // 2, epochs=2, shuffle=False, verbose=0
        ).history
        results |= {f"{name}_weight_{index}": weight for index, weight in enumerate(model.get_weights())}
        results |= {f"{name}_history_{metric}": np.array(values) for metric, values in history.items()}
    results["free_state"] = model.replica_state["perturbation"].to_array()
    results["predicted"] = model.predict(data, verbose=0)
    results["evaluated"] = np.array(model.evaluate(data, verbose=0))
    return results


if __name__ == "__main__":
    np.savez(sys.argv[1], **train(kr.distribution.create_strategy("multi_worker")))

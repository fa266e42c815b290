"""The mistakes that users make, in one table: each is a `ValueError` that says what was received.

The tests of each package go into more cases; this table is the promise to users.
"""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

IMAGES = np.full((6, 4, 4, 1), 0.5, np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
ATTACK = kr.attacks.FGSM(kr.Linf(0.1))
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
CONFIG = {
    "config_format": 1,
    "dataset": "mnist_small",
    "train_split": "train[:32]",
    "validation_split": "train[:32]",
    "classifier": {"name": "lenet"},
    "method": {"name": "adversarial_training"},
    "attack": {"name": "fgsm", "epsilon": 0.3},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
    "batch_size": 32,
    "epochs": 1,
}


def classifier(activation=None):
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, activation=activation)]
    return keras.Sequential(layers)


def fit(images=IMAGES, labels=LABELS, loss=LOGITS, compiled=True):
    model = kr.AdversarialTraining(classifier(), ATTACK)
    if compiled:
        model.compile("sgd", loss)
    model.fit(images, labels, verbose=0)


def evaluate(images=IMAGES, labels=LABELS, model=None):
    kr.evaluate(model or classifier(), (images, labels), ATTACK, verbose=False)


def late(images):
    """A data set whose second batch is at fault."""
    return tf.data.Dataset.from_tensor_slices((np.concatenate([IMAGES, images]), np.tile(LABELS, 2))).batch(6)


def train(folders, **changes):
    options = {name: changes.pop(name) for name in ("strategy",) if name in changes}
    kr.training.train({**CONFIG, **changes}, folders.workdir, data_dir=folders.data_dir, verbose=0, **options)


def train_twice(folders):
    train(folders)
    train(folders, epochs=2)


BYTES = (IMAGES * 255).astype(np.uint8)
MISTAKES = {
    "images not float, fit": (lambda _: fit(BYTES), "dtype uint8"),
    "images not float, evaluate": (lambda _: evaluate(BYTES), "dtype uint8"),
    "images outside bounds, fit": (lambda _: fit(IMAGES * 255), "images from 127.5"),
    "images outside bounds, any batch of evaluate": (
        lambda _: kr.evaluate(classifier(), late(IMAGES * 3), ATTACK, verbose=False),
        "images from 1.5",
    ),
    "softmax classifier, method": (lambda _: kr.AdversarialTraining(classifier("softmax"), ATTACK), "softmax"),
    "softmax classifier, evaluate": (lambda _: evaluate(model=classifier("softmax")), "add up to 1"),
    "loss on probabilities": (lambda _: fit(loss="sparse_categorical_crossentropy"), "from_logits=False"),
    "labels out of range": (lambda _: fit(labels=LABELS + 1), "labels from 1 to 3"),
    "labels of the wrong rank": (lambda _: fit(labels=np.zeros((6, 3, 1))), "shape (6, 3, 1)"),
    "labels of the wrong length": (lambda _: evaluate(labels=LABELS[:4]), "4 labels for 6 images"),
    "epsilon below 0": (lambda _: kr.Linf(-1), "epsilon=-1"),
    "epsilon above the pixel range": (lambda _: kr.Linf(8), "epsilon=8"),
    "steps": (lambda _: kr.attacks.PGD(kr.Linf(0.1), steps=0), "steps=0"),
    "norm": (lambda folders: train(folders, attack={"name": "fgsm", "norm": "l3", "epsilon": 0.1}), "norm='l3'"),
    "objective": (lambda _: kr.attacks.PGD(kr.Linf(0.1), objective="accuracy"), "objective='accuracy'"),
    "target": (lambda _: kr.attacks.PGD(kr.Linf(0.1), target="easiest"), "target='easiest'"),
    "attack where a name was meant": (lambda _: kr.attacks.PGD(kr.Linf(0.1), objective=ATTACK), "objective=PGD("),
    "name where an attack was meant": (lambda _: kr.AdversarialTraining(classifier(), "pgd"), "attack='pgd'"),
    "clean_fraction": (
        lambda _: kr.AdversarialTraining(classifier(), ATTACK, clean_fraction=1.2),
        "clean_fraction=1.2",
    ),
    "misspelt config field": (lambda folders: train(folders, atack={}), "atack={}"),
    "config of another version": (lambda folders: train(folders, config_format=0), "config_format=0"),
    "missing data set": (lambda folders: train(folders, dataset="mnist"), "name='mnist'"),
    "missing folder": (lambda folders: train(folders, dataset="folder:gone"), "name='folder:gone'"),
    "missing model file": (lambda _: evaluate(model="gone/best.keras"), "gone/best.keras"),
    "workdir of another config": (train_twice, "epochs: 1 there, 2 now"),
    "batch size and replicas": (
        lambda folders: train(folders, batch_size=31, strategy="mirrored"),
        "batch_size=31, replicas=2",
    ),
    "never compiled": (lambda _: fit(compiled=False), "never compiled"),
    "image shape, fit": (lambda _: fit(IMAGES[:, :3]), "(3, 4, 1)"),
    "image shape, evaluate": (lambda _: evaluate(IMAGES[:, :3]), "(3, 4, 1)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake, data_dir, tmp_path):
    make, received = MISTAKES[mistake]
    with pytest.raises(ValueError, match=r"Received: ") as error:
        make(types.SimpleNamespace(workdir=tmp_path / "run", data_dir=data_dir))
    assert received in str(error.value).partition("Received: ")[2]

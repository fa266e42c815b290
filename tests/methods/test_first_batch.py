"""The look at the first batch takes nothing from what is passed to `fit`, whatever its kind."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
COUNT, SIZE = 12, 4


class Batches(keras.utils.PyDataset):
    """Three batches, counted."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        super().__init__()
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return COUNT // SIZE

    def __getitem__(self, index: int):
        part = slice(index * SIZE, (index + 1) * SIZE)
        return self.images[part], self.labels[part]


def generator(images: np.ndarray, labels: np.ndarray):
    for start in range(0, COUNT, SIZE):
        yield images[start : start + SIZE], labels[start : start + SIZE]


def arrays(images: np.ndarray, labels: np.ndarray) -> dict:
    return {"x": images, "y": labels, "batch_size": SIZE}


KINDS = {
    "arrays": arrays,
    "tensors": lambda images, labels: arrays(tf.constant(images), tf.constant(labels)),
    "float labels": lambda images, labels: arrays(images, labels.astype(np.float32)),
    "int16 labels": lambda images, labels: arrays(images, labels.astype(np.int16)),
    "tf.data": lambda *data: {"x": tf.data.Dataset.from_tensor_slices(data).batch(SIZE)},
    "tf.data of float64": lambda images, labels: {
        "x": tf.data.Dataset.from_tensor_slices((images.astype(np.float64), labels)).batch(SIZE)
    },
    "tf.data with weights": lambda *data: {
        "x": tf.data.Dataset.from_tensor_slices((*data, np.ones(COUNT, np.float32))).batch(SIZE)
    },
    "PyDataset": lambda *data: {"x": Batches(*data)},
    "generator": lambda *data: {"x": generator(*data), "steps_per_epoch": 3},
    "endless generator": lambda *data: {"x": (b for _ in range(10**9) for b in generator(*data)), "steps_per_epoch": 3},
}


class Counting(kr.RobustModel):
    """Keeps how often each image was trained on, known by its first pixel."""

    seen: list

    def perturb(self, images, labels, seed):
        self.seen.extend(np.asarray(images)[:, 0, 0, 0].tolist())
        return super().perturb(images, labels, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_is_trained_on_once(linear_classifier, batch, kind):
    images, labels = batch(count=COUNT, shape=(4, 4, 1))
    model = Counting(linear_classifier(), kr.attacks.FGSM(kr.Linf(0.1)))
    model.seen = []
    model.compile(keras.optimizers.SGD(0.1), SPARSE, run_eagerly=True)
    options = KINDS[kind](images, labels)
    model.fit(**options, shuffle=False, verbose=0)
    assert list(model.seen) == images[:, 0, 0, 0].tolist()
    assert int(model.steps_taken) == COUNT // SIZE


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "arrays"])
def test_every_kind_gives_the_same_weights(linear_classifier, batch, kind):
    images, labels = batch(count=COUNT, shape=(4, 4, 1))
    weights = []
    for each in ("arrays", kind):
        model = kr.AdversarialLogitPairing(linear_classifier(), kr.attacks.PGD(kr.Linf(0.1), steps=1))
        model.compile(keras.optimizers.SGD(0.1), SPARSE)
        model.fit(**KINDS[each](images, labels), shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("kind", ["tf.data", "PyDataset", "generator"])
def test_bad_batches_are_seen_in_every_kind(linear_classifier, batch, kind):
    images, labels = batch(count=COUNT, shape=(4, 4, 1))
    model = kr.RobustModel(linear_classifier(), kr.attacks.FGSM(kr.Linf(0.1)))
    model.compile("sgd", SPARSE)
    with pytest.raises(ValueError, match="Received: images from "):
        model.fit(**KINDS[kind](images * 255, labels), shuffle=False, verbose=0)


@pytest.mark.parametrize("role", ["training", "validation"])
def test_the_look_at_a_data_set_lasts_as_long_as_fit(linear_classifier, batch, role):
    """An iterator that is given up early can leave a cached data set with what it has read, for good."""
    images, labels = batch(count=4, shape=(4, 4, 1))
    data = tf.data.Dataset.from_tensor_slices((images, labels)).cache().batch(2)
    arguments = {"x": data} if role == "training" else {"x": images, "y": labels, "validation_data": data}
    alive = []

    def look(logs: dict | None = None) -> None:
        del logs
        gc.collect()
        alive.append(sum(type(each).__name__ == "OwnedIterator" for each in gc.get_objects()))

    look()
    model = kr.NaturalTraining(linear_classifier())
    model.compile("sgd", SPARSE)
    model.fit(**arguments, shuffle=False, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_begin=look)])
    assert alive[1] == alive[0] + 1

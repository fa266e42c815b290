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
    model = kr.AdversarialTraining(linear_classifier(), kr.attacks.FGSM(kr.Linf(0.1)))
    model.compile("sgd", SPARSE)
    with pytest.raises(ValueError, match="Received: images from "):
        model.fit(**KINDS[kind](images * 255, labels), shuffle=False, verbose=0)


class Read:
    """A data set from a generator of examples, which counts what is read of it."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.count, self.examples = 0, list(zip(images, labels, strict=True))
        signature = (tf.TensorSpec((4, 4, 1), tf.float32), tf.TensorSpec((), tf.int64))
        data = tf.data.Dataset.from_generator(self.generate, output_signature=signature)
        self.data = data.apply(tf.data.experimental.assert_cardinality(len(images)))  # without, Keras warns at its end

    def generate(self):
        for example in self.examples:
            self.count += 1
            yield example


def natural(classifier: keras.Model) -> keras.Model:
    model = kr.NaturalTraining(classifier)
    model.compile(keras.optimizers.SGD(0.1), SPARSE)
    return model


@pytest.mark.parametrize("role", ["training", "validation"])
def test_a_data_set_is_read_once_per_epoch(linear_classifier, batch, role):
    """Also where a buffer to shuffle in takes all of it to give the first batch."""
    images, labels = batch(count=COUNT, shape=(4, 4, 1))
    read = Read(images, labels)
    data = read.data.shuffle(COUNT).batch(SIZE).prefetch(1)
    arguments = {"x": data} if role == "training" else {"x": images, "y": labels, "validation_data": data}
    natural(linear_classifier()).fit(**arguments, epochs=3, shuffle=False, verbose=0)
    assert read.count == 3 * COUNT


@pytest.mark.parametrize("role", ["training", "validation"])
def test_one_pipeline_at_a_time_is_in_memory(linear_classifier, batch, role):
    """Of what is trained on while it is trained on, and of validation data while it is validated on."""
    images, labels = batch(count=COUNT, shape=(4, 4, 1))
    data = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(COUNT).batch(SIZE)
    alive = []

    def look(*arguments, **named) -> None:
        del arguments, named
        alive.append(iterators_alive())

    look()
    hook = {"on_train_batch_end" if role == "training" else "on_test_batch_end": look}
    arguments = {"x": data} if role == "training" else {"x": images, "y": labels, "validation_data": data}
    model = natural(linear_classifier())
    model.fit(**arguments, epochs=2, shuffle=False, verbose=0, callbacks=[keras.callbacks.LambdaCallback(**hook)])
    assert len(alive) == 1 + 2 * COUNT // SIZE
    assert max(alive[1:]) - alive[0] == (1 if role == "training" else 3)  # Keras has two of the arrays by then


def test_the_order_of_shuffled_data_is_that_of_keras(linear_classifier, batch):
    """A look that took an order of its own would move all epochs on by one."""
    images, labels = batch(count=COUNT, shape=(4, 4, 1))
    plain, looking = linear_classifier(), natural(linear_classifier())
    plain.compile(keras.optimizers.SGD(0.1), SPARSE)
    for model in (plain, looking):
        data = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(COUNT, seed=3).batch(SIZE)
        model.fit(data, epochs=2, shuffle=False, verbose=0)
    for one, two in zip(plain.get_weights(), looking.classifier.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "replicas"), [({}, 1), ({}, 2), ({"class_weight": {0: 1.0, 1: 2.0, 2: 3.0}}, 1)], ids=str
)
def test_a_cached_data_set_stays_whole(two_replicas, linear_classifier, batch, options, replicas):
    """An iterator that is given up early can leave it with what it has read, for good."""
    images, labels = batch(count=COUNT, shape=(4, 4, 1))
    read = Read(images, labels)
    data = read.data.prefetch(8).cache().map(lambda *each: each, num_parallel_calls=2).prefetch(4).batch(SIZE)
    with two_replicas.scope() if replicas == 2 else tf.distribute.get_strategy().scope():
        model = natural(linear_classifier())
    model.fit(data, epochs=3, shuffle=False, verbose=0, **options)
    model.evaluate(data, verbose=0)
    assert sum(len(few) for few, _ in data) == COUNT


def iterators_alive() -> int:
    gc.collect()
    return sum(type(each).__name__ == "OwnedIterator" for each in gc.get_objects())


def test_a_cached_data_set_stays_whole_where_fit_refuses_it(linear_classifier, batch):
    """What is wrong can be put right behind the cache, whose reader lives as long: with class numbers from 0."""
    images, labels = batch(count=COUNT, shape=(4, 4, 1))
    data = Read(images, labels + 1).data.prefetch(8).cache().map(lambda *each: each, num_parallel_calls=2).prefetch(4)
    model, before = natural(linear_classifier()), iterators_alive()
    with pytest.raises(ValueError, match="Received: labels from"):
        model.fit(data.batch(SIZE), shuffle=False, verbose=0)
    assert iterators_alive() == before + 1
    assert sum(1 for _ in data) == COUNT
    del data
    assert iterators_alive() == before


def test_two_replicas_read_a_data_set_once_more_at_most(two_replicas, linear_classifier, batch):
    """For the look at the first batch; Keras would build the model from another one."""
    images, labels = batch(count=COUNT, shape=(4, 4, 1))
    read = Read(images, labels)
    data = read.data.shuffle(COUNT).batch(SIZE)
    with two_replicas.scope():
        model = natural(linear_classifier())
    model.fit(data, shuffle=False, verbose=0)
    assert read.count == 2 * COUNT
    model.evaluate(data, verbose=0)
    assert read.count == 3 * COUNT


def test_an_endless_data_set_goes_on_from_epoch_to_epoch(linear_classifier, batch):
    """An endless data set with a smaller batch in it, of which an epoch takes a part."""
    images, labels = batch(count=COUNT - 1, shape=(4, 4, 1))
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(SIZE).repeat()
    endless, arrays = (natural(linear_classifier()) for _ in range(2))
    endless.fit(data, epochs=2, steps_per_epoch=3, shuffle=False, verbose=0)
    arrays.fit(images, labels, SIZE, epochs=2, shuffle=False, verbose=0)
    for one, two in zip(endless.get_weights(), arrays.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)

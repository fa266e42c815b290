"""Training on what workers attack: data set, callback, methods, and what is refused. The workers are fakes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from fake_pool import FakePool

import keras_robust as kr
from keras_robust.distribution import asynchronous_generation
from keras_robust.distribution.crafted_batches import CRAFTED_AT, TrainsOnCraftedBatches

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ATTACK = kr.attacks.PGD(kr.Linf(0.25), steps=1)
STEPS = 6


class Record(keras.callbacks.Callback):
    """Keeps the logs of epochs, as callbacks see them that come after the one of the workers."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


def compiled(classifier, method=kr.AdversarialTraining, **options):
    model = method(classifier, ATTACK, **options)
    model.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"])
    return model


def batches(count=None):
    """Batches of 4 images, whose first pixel is the number of the batch over 100."""

    def one(number):
        images = tf.fill((4, 4, 4, 1), tf.cast(number, tf.float32) / 100)
        return images, tf.range(4, dtype=tf.int64) % 3

    data = tf.data.Dataset.counter() if count is None else tf.data.Dataset.range(count)
    return data.map(one)


def numbers(data_set, count):
    """The numbers of the first batches of a data set."""
    return [round(float(x["clean"][0, 0, 0, 0]) * 100) for (x, *_) in data_set.take(count)]


def fit(attacked, model, epochs=2, **options):
    record = Record()
    model.fit(
        attacked.data_set,
        **{"epochs": epochs, "steps_per_epoch": STEPS, "shuffle": False, "verbose": 0, **options},
        callbacks=[attacked.callback, record],
    )
    return record.epochs


@pytest.mark.parametrize("method", [kr.AdversarialTraining, kr.AdversarialLogitPairing, kr.TRADES])
def test_staleness_and_counts_are_logged_exactly(linear_classifier, method):
    """Weights are published after steps 4, 8 and 12; the first batch of each epoch is the trainer's own.

    Steps 1 to 5 train on attacks with the weights of 0, 0, 0, 4 and 4, and steps 7 to 11 on those of 4, 8, 8, 8 and 8.
    """
    model, pool = compiled(linear_classifier(), method), FakePool()
    with asynchronous_generation(
        model, batches(), publish_every=4, capacity=1, steps_per_epoch=STEPS, pool=pool
    ) as attacked:
        first, second = fit(attacked, model)
    assert pool.published == [0, 4, 8, 12]
    assert pool.stopped
    assert (first["own_batches"], second["own_batches"]) == (1, 1)
    assert (first["dropped_batches"], first["replaced_workers"]) == (0, 0)
    assert first["staleness"] == pytest.approx((1 + 2 + 3 + 0 + 1) / 6)
    assert second["staleness"] == pytest.approx((3 + 0 + 1 + 2 + 3) / 6)
    assert "robust_accuracy" in first


@pytest.mark.graph
def test_the_model_trains_on_what_the_workers_made(linear_classifier):
    """The fake adds 0.25: the same as training on such images, after one step that attacks them itself."""
    model, expected = (compiled(linear_classifier()) for _ in range(2))
    with asynchronous_generation(model, batches(), pool=FakePool()) as attacked:
        fit(attacked, model, epochs=1)
    data = batches().map(
        lambda x, y: (
            {"clean": x, "adversarial": x + 0.25, CRAFTED_AT: tf.fill((4,), 0 if x[0, 0, 0, 0] > 0 else -1)},
            y,
        )
    )
    with TrainsOnCraftedBatches(expected):
        expected.fit(data, steps_per_epoch=STEPS, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_an_epoch_has_the_batches_that_it_has_without_workers(linear_classifier):
    """Although a worker is late by 5 steps, and although something looked at the data set before."""
    model = compiled(linear_classifier())
    with asynchronous_generation(model, batches(), steps_per_epoch=10, pool=FakePool(delay=5)) as attacked:
        assert numbers(attacked.data_set, 1) == [0]
        seen = numbers(attacked.data_set, 30)
    assert seen != list(range(30))
    for epoch in range(3):
        assert sorted(seen[10 * epoch : 10 * epoch + 10]) == list(range(10 * epoch, 10 * epoch + 10))


def test_an_interrupted_epoch_ends_where_it_would_have_ended(linear_classifier):
    """A model at step 7 in epochs of 10 steps: three batches are left of the first."""
    model = compiled(linear_classifier())
    model.steps_taken.assign(7)
    with asynchronous_generation(
        model, batches().skip(7), capacity=5, steps_per_epoch=10, pool=FakePool(delay=5)
    ) as attacked:
        seen = numbers(attacked.data_set, 13)
    assert sorted(seen[:3]) == [7, 8, 9]
    assert sorted(seen[3:]) == list(range(10, 20))


def test_data_sets_that_end_are_trained_on_whole(linear_classifier):
    model = compiled(linear_classifier())
    with asynchronous_generation(model, batches(STEPS), pool=FakePool(delay=3)) as attacked:
        assert attacked.data_set.cardinality() == STEPS
        first, second = fit(attacked, model, steps_per_epoch=None)
    assert int(model.steps_taken.numpy()) == 2 * STEPS
    assert np.isfinite([first["loss"], second["loss"]]).all()


def test_sample_weights_and_one_hot_labels_go_through(linear_classifier):
    model = kr.AdversarialTraining(linear_classifier(), ATTACK)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    data = batches().map(lambda x, y: (x, tf.one_hot(y, 3), tf.zeros(4)))
    with asynchronous_generation(model, data, pool=FakePool()) as attacked:
        (epoch,) = fit(attacked, model, epochs=1)
    assert epoch["loss"] == 0


@pytest.mark.multi_device
def test_two_replicas(two_replicas, linear_classifier):
    """Batches are split; each replica counts the same staleness. tf.data fetches some batches ahead here."""
    with two_replicas.scope():
        model = compiled(linear_classifier(), kr.AdversarialLogitPairing)
    with asynchronous_generation(model, batches(), publish_every=4, steps_per_epoch=STEPS, pool=FakePool()) as attacked:
        epochs = fit(attacked, model)
    assert int(model.steps_taken.numpy()) == 2 * STEPS
    assert all(np.isfinite(epoch["loss"]) and 0 < epoch["staleness"] < 10 for epoch in epochs)


def test_the_pool_is_stopped_and_errors_are_plain(linear_classifier):
    """Also those that tf.data would hide in one of its own."""

    class DyingPool(FakePool):
        def collect(self):
            if len(self.handed_out) > 3:
                raise RuntimeError("No worker is left")
            return super().collect()

    model, pool = compiled(linear_classifier()), DyingPool()
    with (
        pytest.raises(RuntimeError, match=r"^No worker is left$"),
        asynchronous_generation(model, batches(), pool=pool) as attacked,
    ):
        fit(attacked, model)
    assert pool.stopped
    pool = FakePool()
    with pytest.raises(KeyboardInterrupt), asynchronous_generation(model, batches(), pool=pool):
        raise KeyboardInterrupt
    assert pool.stopped


def generate(model, data=None, **options):
    with asynchronous_generation(model, batches() if data is None else data, **{"pool": FakePool(), **options}):
        raise AssertionError("this is not reached")


REFUSED = {
    "no worker": ({"workers": 0}, "workers=0"),
    "never published": ({"publish_every": 0}, "publish_every=0"),
    "no room": ({"capacity": 0}, "capacity=0"),
    "negative": ({"publish_every": 1, "max_staleness": -1}, "max_staleness=-1"),
    "too strict": ({"publish_every": 10, "max_staleness": 9}, "max_staleness=9, publish_every=10"),
    "no labels": ({"data": batches().map(lambda x, y: x)}, "batches must be"),
    "arrays": ({"data": np.zeros((4, 4, 4, 1))}, "batches must be"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_arguments_are_checked(linear_classifier, mistake):
    options, message = REFUSED[mistake]
    with pytest.raises(ValueError, match=message):
        generate(compiled(linear_classifier()), **options)


METHODS = {
    "no attack": (kr.NaturalTraining, "NaturalTraining"),
    "a step of its own": (lambda c: kr.FreeAdversarialTraining(c, kr.attacks.FGSM(kr.Linf(0.1))), "FreeAdversarial"),
    "a queue of its own": (lambda c: kr.StaleAdversarialTraining(c, ATTACK, staleness=2), "StaleAdversarialTraining"),
}


@pytest.mark.parametrize("mistake", METHODS)
def test_methods_that_workers_cannot_help_are_refused(linear_classifier, mistake):
    make, message = METHODS[mistake]
    with pytest.raises(ValueError, match=f"Received: a {message}"):
        generate(make(linear_classifier()))


def test_without_ray_the_error_says_how_to_install_it(linear_classifier, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'ray>=2\.40'"):
        generate(compiled(linear_classifier()), pool=None)

"""Two replicas against one: the same weights for the same global batch, and random starts of their own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import rest_slow
from makers import METHODS

import keras_robust as kr

pytestmark = pytest.mark.multi_device
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
STILL = kr.attacks.PGD(kr.Linf(0.1), steps=2, random_start="none")
MAKERS = {
    "robust": lambda classifier, **options: kr.AdversarialTraining(classifier, STILL, **options),
    "mixture": lambda classifier, **options: kr.AdversarialTraining(
        classifier, STILL, clean_fraction=0.5, clean_weight=0.3, **options
    ),
    "pairing": lambda classifier, **options: kr.AdversarialLogitPairing(classifier, STILL, **options),
}


def build(make, strategy: tf.distribute.Strategy | None, **options) -> keras.Model:
    with strategy.scope() if strategy else tf.distribute.get_strategy().scope():
        model = make(**options)
        model.compile(keras.optimizers.SGD(0.5, momentum=0.9), SPARSE, metrics=["accuracy"])
    return model


def run(model: keras.Model, images, labels, batch_size: int, epochs: int = 1, **options) -> dict:
    options = {"batch_size": batch_size, "epochs": epochs, "shuffle": False, "verbose": 0, **options}
    return model.fit(images, labels, **options).history


def steps_taken(model: keras.Model) -> int:
    return int(keras.ops.convert_to_numpy(model.steps_taken))


def assert_same(one: keras.Model, two: keras.Model) -> None:
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def ordered(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every replica takes half of its share clean: repeating four rows makes both choices the same images."""
    return np.tile(images[:2], (8, 1, 1, 1)), np.tile(labels[:2], 8)


@pytest.mark.graph
@pytest.mark.parametrize(
    ("method", "weighted"), rest_slow([("robust", False), ("mixture", True), ("pairing", True)], [("pairing", True)])
)
def test_two_replicas_give_the_weights_of_one(two_replicas, conv_classifier, batch, method, weighted):
    """Gradients are summed over replicas and losses divided by their number; three epochs with momentum."""
    images, labels = batch(count=16)
    weight = np.random.default_rng(1).uniform(0.5, 2, 16).astype(np.float32)
    if method == "mixture":
        images, labels = ordered(images, labels)
        weight = np.tile(weight[:2], 8)
    options = {"sample_weight": weight} if weighted else {}
    one, two = (
        build(lambda: MAKERS[method](conv_classifier(), validation_attack=STILL), s) for s in (None, two_replicas)
    )
    if method == "pairing":
        options["validation_data"] = (images, labels)
    of_one = run(one, images, labels, 8, 3, **options)
    of_two = run(two, images, labels, 8, 3, **options)
    assert_same(one, two)
    assert steps_taken(one) == steps_taken(two) == 6
    for name, values in of_one.items():
        np.testing.assert_allclose(of_two[name], values, atol=1e-4, err_msg=name)


@pytest.mark.graph
def test_logs_are_over_the_examples_of_all_replicas(two_replicas, linear_classifier, batch):
    """The last of 5 examples is a batch on one replica and none on the other, so no mean over replicas is the log.

    Evaluation without an attack logs no robust metrics, so not all metrics.
    """
    images, labels = batch(count=5, shape=(4, 4, 1))
    model = build(lambda: kr.AdversarialTraining(linear_classifier(), STILL), two_replicas)
    logs = model.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)
    logits = linear_classifier()(images).numpy()
    assert {name: float(value) for name, value in logs.items()} == {  # Keras 3.12 returns tensors
        "loss": pytest.approx(float(SPARSE(labels, logits)), rel=1e-5),
        "accuracy": pytest.approx(np.mean(logits.argmax(axis=1) == labels)),
    }


def test_a_classifier_is_built_in_the_scope_by_fit_outside_of_it(two_replicas, batch):

    def make() -> keras.Model:
        unbuilt = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3, kernel_initializer="zeros")])
        return kr.AdversarialTraining(unbuilt, STILL)

    one, two = (build(make, s) for s in (None, two_replicas))
    for model in (one, two):
        run(model, *batch(), 8)
    assert_same(one, two)


@pytest.mark.graph
@pytest.mark.parametrize("normalization", ["batch", "synchronized_batch"])
def test_synchronized_batch_normalisation_sees_the_global_batch(two_replicas, batch, normalization):
    """Statistics of the halves of a batch differ from those of the whole, unless they are synchronized."""

    def make() -> keras.Model:
        layers = [keras.Input((8, 8, 1)), kr.layers.make_normalization(normalization, 1), keras.layers.Flatten()]
        dense = keras.layers.Dense(3, kernel_initializer="ones")
        return kr.AdversarialTraining(keras.Sequential([*layers, dense]), STILL)

    images, labels = batch(count=8)
    images[:4] *= 0.1
    one, two = (build(make, s) for s in (None, two_replicas))
    run(one, images, labels, 8, 3)
    run(two, images, labels, 8, 3)
    apart = max(np.abs(a - b).max() for a, b in zip(one.get_weights(), two.get_weights(), strict=True))
    assert apart < 1e-5 if normalization == "synchronized_batch" else apart > 1e-3


def test_weight_decay_is_not_doubled(two_replicas, batch):
    def make() -> keras.Model:
        dense = keras.layers.Dense(3, kernel_regularizer="l2", kernel_initializer="ones")
        classifier = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), dense])
        return kr.AdversarialLogitPairing(classifier, STILL)

    images, labels = batch(count=8)
    one, two = (build(make, s) for s in (None, two_replicas))
    run(one, images, labels, 8)
    run(two, images, labels, 8)
    assert_same(one, two)


@pytest.mark.parametrize("random_start", ["none", "uniform"])
def test_random_starts_differ_per_replica(two_replicas, linear_classifier, batch, random_start):
    """Both replicas see what one replica sees: their mean update is its update unless their starts differ.

    A single replica draws as the first of two does. With tiny steps adversarial images are their starts.
    """
    images, labels = batch(count=4, shape=(4, 4, 1))
    attack = kr.attacks.PGD(kr.Linf(0.3), steps=1, step_size=1e-6, random_start=random_start)
    one, two = (build(lambda: kr.AdversarialTraining(linear_classifier(), attack), s) for s in (None, two_replicas))
    run(one, images, labels, 4)
    run(two, np.concatenate([images, images]), np.concatenate([labels, labels]), 8)
    apart = max(np.abs(a - b).max() for a, b in zip(one.get_weights(), two.get_weights(), strict=True))
    assert apart < 1e-6 if random_start == "none" else apart > 1e-4


def test_save_and_load_under_a_strategy(two_replicas, conv_classifier, batch, tmp_path):
    """One epoch, save, load in the scope, one epoch equals two epochs, with random starts."""
    images, labels = batch(count=16)
    attack = kr.attacks.PGD(kr.Linf(0.1), steps=1)
    through, model = (build(lambda: kr.AdversarialTraining(conv_classifier(), attack), two_replicas) for _ in range(2))
    run(through, images, labels, 8, 2)
    run(model, images, labels, 8)
    model.save(tmp_path / "model.keras")
    with two_replicas.scope():
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    run(loaded, images, labels, 8)
    assert steps_taken(loaded) == 4
    assert_same(through, loaded)


@pytest.mark.parametrize("replicas", [1, 2])
def test_weights_are_loaded_into_a_model_that_has_trained(two_replicas, conv_classifier, batch, tmp_path, replicas):
    """Also what each replica keeps, and outside the scope: the same epoch again gives the same weights."""
    images, labels = batch(count=8)
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    attack = kr.attacks.PGD(kr.Linf(0.1), steps=1, step_size=0.03, random_start="none")
    with strategy.scope():
        model = kr.FreeAdversarialTraining(conv_classifier(), attack, replays=2)
        model.compile(keras.optimizers.SGD(0.1), SPARSE)
    run(model, images, labels, 8)
    model.save_weights(tmp_path / "model.weights.h5")
    weights = []
    for _ in range(2):
        run(model, images, labels, 8)
        weights.append([np.array(w) for w in model.get_weights()])
        model.load_weights(tmp_path / "model.weights.h5")
    for old, new in zip(*weights, strict=True):
        np.testing.assert_allclose(old, new, atol=1e-7)


def test_a_distributed_data_set_gives_what_arrays_give(two_replicas, conv_classifier, batch):
    images, labels = batch(count=16)
    of_arrays, model = (build(lambda: MAKERS["pairing"](conv_classifier()), two_replicas) for _ in range(2))
    run(of_arrays, images, labels, 8)
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    data = two_replicas.experimental_distribute_dataset(data)
    model.fit(data, steps_per_epoch=2, shuffle=False, verbose=0)
    assert_same(of_arrays, model)


@pytest.mark.graph
def test_checkpoints_of_what_replicas_keep_do_not_make_tensorflow_warn(
    two_replicas, conv_classifier, batch, tmp_path, tensorflow_warnings
):
    def make():
        return kr.FreeAdversarialTraining(conv_classifier(), kr.attacks.FGSM(kr.Linf(0.1)), replays=1)

    for _ in range(3):
        model = build(make, two_replicas)
        run(model, *batch(), batch_size=4)
        for _ in range(2):
            model.save_weights(tmp_path / "free.weights.h5")
            model.load_weights(tmp_path / "free.weights.h5")
    assert not tensorflow_warnings


@pytest.mark.graph
@pytest.mark.parametrize(
    "method", rest_slow(["natural", "pairing", "trades", "free", "weight perturbation"], ["pairing", "free"])
)
def test_a_last_batch_that_does_not_reach_every_replica_keeps_everything_finite(
    two_replicas, conv_classifier, batch, method
):
    """The fifth of five images in batches of four goes to the first of two replicas; none have no batch statistics."""
    images, labels = batch(count=5)
    model = build(lambda: METHODS[method](conv_classifier(batch_norm=True), validation_attack=STILL), two_replicas)
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
    history = model.fit(data, validation_data=data, epochs=2, shuffle=False, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.graph
def test_a_replica_without_images_adds_nothing(two_replicas, conv_classifier, batch):
    """One image on two replicas: its batch statistics as on one, and half of its gradient, as the loss is a mean."""
    images, labels = batch(count=1)
    start = conv_classifier(batch_norm=True)
    one, two = (build(lambda: kr.NaturalTraining(conv_classifier(batch_norm=True)), s) for s in (None, two_replicas))
    run(one, images, labels, 4)
    run(two, images, labels, 4)
    assert not np.allclose(one.get_weights()[-1], 0)
    for variable, of_one, of_two, before in zip(
        start.variables, one.classifier.get_weights(), two.classifier.get_weights(), start.get_weights(), strict=True
    ):
        share = 1.0 if "moving" in variable.path else 0.5
        np.testing.assert_allclose(of_two - before, share * (of_one - before), atol=1e-6, err_msg=variable.path)


@pytest.mark.graph
@pytest.mark.parametrize("count", [1, 5])
def test_validation_and_prediction_are_exact_where_a_replica_has_no_images(two_replicas, conv_classifier, batch, count):
    images, labels = batch(count=count)
    one, two = (
        build(lambda: kr.NaturalTraining(conv_classifier(batch_norm=True), validation_attack=STILL), s)
        for s in (None, two_replicas)
    )
    expected, logs = (m.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True) for m in (one, two))
    assert logs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5)
    of_one, of_two = (m.predict(images, batch_size=4, verbose=0) for m in (one, two))
    np.testing.assert_allclose(of_two, of_one, atol=1e-6)


def test_what_replicas_keep_fits_the_larger_share_of_an_odd_batch(two_replicas, conv_classifier, batch):
    """Of three images the first replica has two."""
    attack = kr.attacks.PGD(kr.Linf(0.1), steps=1, step_size=0.03, random_start="none")
    model = build(lambda: kr.FreeAdversarialTraining(conv_classifier(), attack, replays=2), two_replicas)
    history = run(model, *batch(count=3), batch_size=3, epochs=2)
    assert np.isfinite(history["loss"]).all()
    assert model.replica_state["perturbation"].shape[0] == 2

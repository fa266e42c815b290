"""What holds for every training method: XLA, replicas, saving, forms of labels, logged names."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import as_slow, rest_slow
from makers import METHODS, labels_for, loss_for

import keras_robust as kr


def compiled(method: str, classifier: keras.Model, optimizer=None, **options) -> keras.Model:
    model = METHODS[method](classifier)
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss_for(method), metrics=["accuracy"], **options)
    return model


def fit(model: keras.Model, method: str, data, epochs=1, batch_size=4, validate=False) -> dict:
    """Fits, and validates where it is asked for or the method wants to see whether it overfits."""
    data = (data[0], labels_for(method, data[1]))
    options = {"batch_size": batch_size, "epochs": epochs, "shuffle": False, "verbose": 0}
    return model.fit(*data, validation_data=data if validate or method == "fast" else None, **options).history


OF_ONE_KIND = {"robust", "pairing", "natural", "squeezing", "mart"}
"""Methods whose step is made of parts that those of other methods have, too: they are traced, not compiled with XLA."""


WITH_XLA = ["mixture", "trades", "free", "stale", "weight perturbation", "mixup"]
"""One method of each kind of step; "robust" is traced."""


@pytest.mark.xla
@pytest.mark.parametrize("method", rest_slow(METHODS, ["robust", *WITH_XLA]))
def test_two_steps_that_are_traced_or_compiled_with_xla_do_the_same(conv_classifier, batch, method):
    """With random starts and batch normalisation: the draws are made of integers, so they are the same."""
    data = batch(count=12)
    results = []
    # The signs of tiny gradients of the divergence flip where kernels are fused, as traced ones are.
    for options in ({"run_eagerly": method != "trades"}, {"jit_compile": method not in OF_ONE_KIND}):
        model = compiled(method, conv_classifier(batch_norm=True), **options)
        results.append((fit(model, method, data, batch_size=6, validate=method == "mixture"), model.get_weights()))
    (expected, weights), (got, got_weights) = results
    assert set(got) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, atol=1e-4, err_msg=name)
    for a, b in zip(got_weights, weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_float64_is_not_rounded(float64, conv_classifier, batch, method):
    """A change of the images by 1e-10, of which float32 leaves nothing, changes the loss, by less than 1e-7."""
    images, labels = batch(count=12 if method == "stale" else 4)  # whose queue takes two batches
    images = images.astype(np.float64)
    losses = []
    for moved in (images, images * (1 - 1e-10)):
        model = compiled(method, conv_classifier(batch_norm=True))
        losses.append(fit(model, method, (moved, labels), batch_size=4)["loss"][0])
    assert 0 < abs(losses[0] - losses[1]) < 1e-7


@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_as_if_it_had_not_stopped(tmp_path, conv_classifier, batch, method):
    """The second epoch of a model, and of what was saved after the first."""
    data = batch(count=4)
    model = compiled(method, conv_classifier(batch_norm=True), keras.optimizers.Adam(1e-2))
    fit(model, method, data, validate=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert loaded.get_config().keys() == model.get_config().keys()
    of_model, of_loaded = (fit(each, method, data, validate=True) for each in (model, loaded))
    for name, values in of_model.items():
        np.testing.assert_allclose(of_loaded[name], values, atol=1e-6, err_msg=name)
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


@pytest.mark.graph
@pytest.mark.parametrize("method", ["robust", "free", "stale"])
def test_train_on_batch_is_a_step_of_fit(conv_classifier, batch, method):
    """Also where a method keeps tensors from step to step."""
    data = batch(count=4)
    fitted, stepped = (compiled(method, conv_classifier(batch_norm=True)) for _ in range(2))
    fit(fitted, method, data, epochs=2, validate=True)
    for _ in range(2):
        stepped.train_on_batch(data[0], labels_for(method, data[1]))
    for expected, got in zip(fitted.get_weights(), stepped.get_weights(), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["robust", "free", "stale", "mixup"])
def test_steps_on_one_batch_take_arrays_in_a_model_that_runs_eagerly(conv_classifier, batch, method):
    """Keras hands the arrays on as they are."""
    images, labels = batch(count=4)
    model = compiled(method, conv_classifier(), run_eagerly=True)
    assert np.isfinite(model.train_on_batch(images, labels_for(method, labels))).all()
    assert np.isfinite(model.test_on_batch(images, labels_for(method, labels))).all()


@pytest.mark.multi_device
@pytest.mark.parametrize(
    "method",
    [
        pytest.param("free", marks=pytest.mark.graph),
        "ensemble",
        *map(as_slow, ["weight perturbation", "robust", "stale", "fast"]),
    ],
)
def test_two_replicas_train(two_replicas, conv_classifier, batch, method, tmp_path):
    """Finite losses, and saved and loaded as one: methods with a state, models or steps of their own."""
    data = batch(count=16)
    with two_replicas.scope():
        model = compiled(method, conv_classifier())
    history = fit(model, method, data, 2, batch_size=8, validate=True)
    assert np.isfinite(history["loss"]).all()
    model.save(tmp_path / "model.keras")
    with two_replicas.scope():
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected, got = (fit(each, method, data, batch_size=8, validate=True) for each in (model, loaded))
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, atol=1e-5, err_msg=name)


@pytest.mark.multi_device
@pytest.mark.parametrize("method", rest_slow(sorted(set(METHODS) - {"mixture"}), ["robust", "pairing", *WITH_XLA[1:]]))
def test_two_replicas_give_the_weights_of_one(two_replicas, conv_classifier, batch, method, monkeypatch):
    """Where both replicas see the same images and draw the same starts, they update as one replica does."""
    monkeypatch.setattr(kr.core.seeds, "fold_replica", lambda seed: seed)
    images, labels = batch(count=4)
    one = compiled(method, conv_classifier())
    with two_replicas.scope():
        two = compiled(method, conv_classifier())
    updates = 3 if method in ("free", "stale") else 1  # which keep something from step to step
    fit(one, method, (images, labels), updates)
    fit(two, method, (np.tile(images, (2, 1, 1, 1)), np.tile(labels, 2)), updates, batch_size=8)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"free", "weight perturbation"}))
def test_sample_weights_scale_the_loss(conv_classifier, batch, method):
    """Weights of 2 double the loss and the update of plain SGD, but where a gradient depends on an earlier update."""
    images, labels = batch(count=4)
    labels = labels_for(method, labels)
    start = conv_classifier().get_weights()
    results, epochs = [], 3 if method == "stale" else 1  # two batches fill its queue
    for weight in (1.0, 2.0):
        model = compiled(method, conv_classifier())
        options = {"validation_data": (images, labels)} if method == "fast" else {}
        options["sample_weight"] = np.full(4, weight, "float32")
        history = model.fit(images, labels, batch_size=4, epochs=epochs, shuffle=False, verbose=0, **options).history
        results.append((history["loss"][-1], model.classifier.get_weights()))
    (loss, single), (double_loss, double) = results
    assert loss > 0
    np.testing.assert_allclose(double_loss, 2 * loss, rtol=1e-5)
    for origin, one, two in zip(start, single, double, strict=True):
        np.testing.assert_allclose(two - origin, 2 * (one - origin), atol=1e-5)


@pytest.mark.parametrize("method", ["free", "mixup", "warm-up"])
def test_a_data_set_of_float64_is_trained_on_as_float32(linear_classifier, batch, method):
    """Keras casts arrays, not data sets."""
    images, labels = batch(count=8, shape=(4, 4, 1))
    weights = []
    for dtype in (np.float32, np.float64):
        model = compiled(method, linear_classifier())
        data = tf.data.Dataset.from_tensor_slices((images.astype(dtype), labels_for(method, labels))).batch(4)
        model.fit(data, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for of_32, of_64 in zip(*weights, strict=True):
        np.testing.assert_allclose(of_64, of_32, atol=1e-7)

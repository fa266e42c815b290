"""Exchanging the batch normalisation of a classifier."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.layers import MixtureBatchNormalization, replace_normalization, use_branch


def residual() -> keras.Model:
    """A functional model with a shortcut, an operation, a nested model and statistics of its own."""
    inner = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.BatchNormalization(), keras.layers.ReLU()])
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    y = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.add([inner(y), keras.ops.negative(x)])
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    model.set_weights([np.abs(rng.normal(1.0, 0.2, w.shape)) for w in model.get_weights()])
    return model


def test_both_branches_start_as_the_original(batch):
    images, _ = batch()
    model = residual()
    copy = replace_normalization(model, "mixture_batch")
    assert sum(isinstance(layer, MixtureBatchNormalization) for layer in copy._flatten_layers()) == 2
    for branch in kr.layers.BRANCHES:
        with use_branch(branch):
            np.testing.assert_allclose(copy(images), model(images), atol=1e-5)
    assert not kr.layers.has_branches(model)


def test_group_normalization_keeps_scale_and_offset(batch):
    images, _ = batch()
    model = residual()
    copy = replace_normalization(model, "group", groups=2)
    layer, old = copy.get_layer("norm"), model.get_layer("norm")
    assert type(layer) is keras.layers.GroupNormalization
    np.testing.assert_array_equal(layer.gamma, old.gamma)
    np.testing.assert_array_equal(layer.beta, old.beta)
    logits = copy(images).numpy()
    np.testing.assert_allclose(copy(images[:3]), logits[:3], atol=1e-5)  # no statistics of the batch
    np.testing.assert_allclose(copy(images, training=True), logits, atol=1e-5)


def test_an_adapted_normalization_is_copied_with_its_statistics(batch):
    images, _ = batch()
    adapted = keras.layers.Normalization()
    adapted.adapt(images)
    model = keras.Sequential([keras.Input((8, 8, 1)), adapted, keras.layers.BatchNormalization()])
    np.testing.assert_allclose(replace_normalization(model, "mixture_batch")(images), model(images), atol=1e-6)


def test_groups_fit_the_channels(batch):
    """Four channels: four groups where nothing is said, not Keras's 32."""
    copy = replace_normalization(residual(), "group")
    assert copy.get_layer("norm").groups == 4
    assert np.isfinite(copy(batch()[0])).all()


def test_the_copy_is_saved_and_loaded(tmp_path, batch):
    images, _ = batch()
    copy = replace_normalization(residual(), "mixture_batch")
    copy.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(images), copy(images), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "normalization", "message"),
    [
        (residual, "layer", "Received: normalization='layer'"),
        (lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), "group", "has no batch norm"),
        (lambda: keras.layers.Dense(3), "group", "of type Dense"),
    ],
)
def test_bad_input(make, normalization, message):
    with pytest.raises(ValueError, match=message):
        replace_normalization(make(), normalization)

"""Batch normalisation on the fused kernel computes what Keras's layer computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.layers import BatchNormalization, frozen_statistics, make_normalization, replace_normalization

CHANNELS = 5
WEIGHTS = [np.linspace(0.5, 1.5, CHANNELS), np.linspace(-1, 1, CHANNELS), np.zeros(CHANNELS), np.ones(CHANNELS)]
SHAPES = [(16, 6, 6, 5), (16, 5), (8, 7, 5), (4, 3, 3, 3, 5), (1, 5)]


def layers(shape, **options):
    """Keras's layer and ours, with the same weights."""
    made = []
    for kind in (keras.layers.BatchNormalization, BatchNormalization):
        layer = kind(momentum=0.9, **options)
        layer.build(shape)
        center, scale = options.get("center", True), options.get("scale", True)
        layer.set_weights([*WEIGHTS[: 1 if scale else 0], *(WEIGHTS[1:2] if center else []), *WEIGHTS[2:]])
        made.append(layer)
    return made


def normal(shape, seed=0, mean=2.0):
    return np.random.default_rng(seed).normal(mean, 3, shape).astype(np.float32)


def pass_of(layer, images, training=True, jit_compile=None, **options):
    """Outputs, the gradients of images, scale and offset, and the moving averages after a pass."""
    upstream = normal(images.shape, 1).astype(images.dtype)

    def step(images):
        weights = [weight.value for weight in layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=training, **options)
            value = tf.reduce_sum(tf.cast(outputs, images.dtype) * upstream)
        return [outputs, *tape.gradient(value, [images, *weights])]

    step = step if jit_compile is None else tf.function(step, jit_compile=jit_compile)
    results = step(tf.constant(images))
    assert results[0].dtype == layer.compute_dtype
    return [np.asarray(tf.cast(value, images.dtype)) for value in (*results, *layer.non_trainable_variables)]


def exact_pass_of(images):
    """What a pass of Keras's layer gives in float64."""
    layer, _ = layers(images.shape, dtype="float64")
    return pass_of(layer, images.astype(np.float64))


def assert_same(expected, got, rtol=1e-6):
    for one, two in zip(expected, got, strict=True):
        np.testing.assert_allclose(two, one, rtol=rtol, atol=rtol * max(1.0, np.abs(one).max()))


def assert_as_exact(expected, got, images):
    """Errors are no larger than twice those of Keras: most are in sums over all pixels."""
    for exact, one, two in zip(exact_pass_of(images), expected, got, strict=True):
        assert np.abs(two - exact).max() <= 2 * np.abs(one - exact).max() + 1e-6 * max(1.0, np.abs(exact).max())


def uses_kernel(layer, images, **options):
    graph = tf.function(lambda images: layer(images, training=True, **options)).get_concrete_function(images).graph
    return "FusedBatchNormV3" in {operation.type for operation in graph.get_operations()}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_training_pass_is_that_of_keras(shape, dtype):
    keras_layer, layer = layers(shape, dtype=dtype)
    images = normal(shape)
    expected, got = pass_of(keras_layer, images), pass_of(layer, images)
    assert_as_exact(expected, got, images)
    assert_same(expected[-2:], got[-2:])
    assert np.abs(got[-2]).max() > 0.1  # the averages moved


@pytest.mark.xla
def test_a_training_pass_compiles_with_xla():
    """And is that of Keras: the kernel's operation is not compiled."""
    keras_layer, layer = layers(SHAPES[0])
    images = normal(SHAPES[0], mean=3000.0)
    expected, got = (pass_of(each, images, jit_compile=True) for each in (keras_layer, layer))
    assert_same(expected, got, 0)


@pytest.mark.graph
@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}, {"epsilon": 0.1}], ids=str)
def test_options(options):
    keras_layer, layer = layers(SHAPES[0], **options)
    expected, got = pass_of(keras_layer, normal(SHAPES[0])), pass_of(layer, normal(SHAPES[0]), jit_compile=False)
    assert_same(expected, got, 1e-5)
    assert uses_kernel(layer, normal(SHAPES[0]))


def test_a_mean_far_from_0_does_not_spoil_the_variance():
    keras_layer, layer = layers(SHAPES[0])
    images = normal(SHAPES[0], mean=3000.0)
    assert_as_exact(pass_of(keras_layer, images), pass_of(layer, images), images)


@pytest.mark.graph
@pytest.mark.parametrize("case", ["a mask", "synchronized", "another axis", "float64", "16-bit weights", "frozen"])
def test_elsewhere_it_is_the_layer_of_keras(case):
    options = {
        "synchronized": {"synchronized": True},
        "another axis": {"axis": 1},
        "float64": {"dtype": "float64"},
        "16-bit weights": {"dtype": "bfloat16"},
    }
    images, call = normal((6, CHANNELS, CHANNELS)), {}
    if case == "a mask":
        call["mask"] = np.arange(30).reshape(6, 5) % 2 == 0
    if case == "float64":
        images = images.astype(np.float64)

    def make():
        made = layers(images.shape, **options.get(case, {}))
        for layer in made:
            layer.trainable = case != "frozen"
        return made

    assert not uses_kernel(make()[1], images, **call)
    keras_layer, layer = make()
    assert_same(pass_of(keras_layer, images, **call), pass_of(layer, images, **call), 0)


def test_inference_and_frozen_statistics_are_those_of_keras():
    for context in (False, True):
        keras_layer, layer = layers(SHAPES[0])
        with frozen_statistics(layer, context), frozen_statistics(keras_layer, context):
            images, training = normal(SHAPES[0]), context
            assert_same(pass_of(keras_layer, images, training), pass_of(layer, images, training), 0)
        np.testing.assert_array_equal(layer.moving_mean, 0)


def test_weights_config_and_files_are_exchanged_with_keras(tmp_path):
    keras_layer, layer = layers(SHAPES[0])
    names = [[weight.path.split("/")[-1] for weight in each.weights] for each in (keras_layer, layer)]
    assert names[0] == names[1]
    assert keras_layer.get_config().keys() == layer.get_config().keys()
    model = keras.Sequential([keras.Input((6, 6, 5)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is BatchNormalization
    of_keras = keras.Sequential([keras.Input((6, 6, 5)), keras_layer])
    of_keras.save_weights(tmp_path / "keras.weights.h5")
    loaded.load_weights(tmp_path / "keras.weights.h5")
    np.testing.assert_array_equal(loaded(normal(SHAPES[0])), of_keras(normal(SHAPES[0])))


def test_any_classifier_is_brought_to_it():
    inputs = keras.Input((6, 6, 5))
    inner = keras.Sequential([keras.Input((6, 6, 5)), keras.layers.BatchNormalization(momentum=0.7, epsilon=0.2)])
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.BatchNormalization()(inner(inputs))))
    model = keras.Model(inputs, outputs)
    model.set_weights([np.abs(normal(weight.shape, index)) for index, weight in enumerate(model.get_weights())])
    copy = replace_normalization(model, "batch")
    np.testing.assert_array_equal(copy(normal((4, 6, 6, 5))), model(normal((4, 6, 6, 5))))
    replaced = copy.layers[1].layers[0]
    assert (type(replaced), replaced.momentum, replaced.epsilon) == (BatchNormalization, 0.7, 0.2)
    assert type(copy.layers[2]) is BatchNormalization
    with pytest.raises(ValueError, match="no batch normalisation to replace"):
        replace_normalization(copy, "batch")
    assert type(make_normalization("batch", 5)) is BatchNormalization

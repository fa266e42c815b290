"""The first convolution is Keras's, its gradients included."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.layers import ImageConvolution

pytestmark = pytest.mark.graph

# Sizes of whole blocks and not, kernels with a middle and without.
SHAPES = [((28, 28, 1), 5), ((7, 5, 3), 3), ((6, 9, 2), (4, 2)), ((3, 3, 1), 7), ((8, 8, 1), 1)]


def pair_of_layers(shape, kernel_size, **options):
    """Returns Keras's layer and ours, with the same weights."""
    ours = ImageConvolution(4, kernel_size, **options)
    theirs = keras.layers.Conv2D(4, kernel_size, padding="same", **options)
    for layer in (theirs, ours):
        layer.build((None, *shape))
    ours.set_weights([np.random.default_rng(1).normal(size=weight.shape) for weight in ours.weights])
    theirs.set_weights(ours.get_weights())
    return theirs, ours


def images_of(shape):
    return tf.constant(np.random.default_rng(0).random((3, *shape), np.float32))


def derivatives(layer, images):
    """Returns outputs, gradients, and the gradients of the gradients' norm, in the images and the weights."""
    sources = [images, *layer.trainable_weights]
    with tf.GradientTape() as outer:
        outer.watch(images)
        with tf.GradientTape() as inner:
            inner.watch(images)
            outputs = layer(images)
            loss = tf.reduce_sum(tf.cast(outputs, "float32") ** 3)
        gradients = inner.gradient(loss, sources)
        norm = tf.add_n([tf.reduce_sum(tf.cast(gradient, "float32") ** 2) for gradient in gradients])
    return [outputs, *gradients, *outer.gradient(norm, sources)]


@pytest.mark.parametrize(("shape", "kernel_size"), SHAPES)
def test_outputs_and_derivatives_are_those_of_keras(shape, kernel_size):
    theirs, ours = pair_of_layers(shape, kernel_size)
    images = images_of(shape)
    for actual, expected in zip(derivatives(ours, images), derivatives(theirs, images), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.xla
def test_the_same_under_xla():
    theirs, ours = pair_of_layers((7, 5, 3), 3)
    images = images_of((7, 5, 3))
    compiled = tf.function(lambda images: derivatives(ours, images), jit_compile=True)
    for actual, expected in zip(compiled(images), derivatives(theirs, images), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_in_mixed_precision():
    theirs, ours = pair_of_layers((28, 28, 1), 5, dtype="mixed_bfloat16")
    images = tf.cast(images_of((28, 28, 1)), "bfloat16")
    outputs, of_images, of_kernel, *_ = derivatives(ours, images)
    assert (outputs.dtype, of_images.dtype, of_kernel.dtype) == (tf.bfloat16, tf.bfloat16, tf.float32)
    for actual, expected in zip((of_images, of_kernel), derivatives(theirs, images)[1:], strict=False):
        actual, expected = np.asarray(actual, np.float32), np.asarray(expected, np.float32)
        np.testing.assert_allclose(actual, expected, atol=2e-2 * np.abs(expected).max())


def test_lenet_begins_with_it_and_comes_back_from_a_file(tmp_path):
    classifier = kr.architectures.LeNet()
    classifier.save(tmp_path / "lenet.keras")
    loaded = keras.models.load_model(tmp_path / "lenet.keras")
    assert isinstance(loaded.layers[0], ImageConvolution)
    images = images_of((28, 28, 1))
    np.testing.assert_array_equal(loaded(images), classifier(images))


@pytest.mark.parametrize(
    ("option", "value"),
    [("strides", 2), ("padding", "valid"), ("dilation_rate", 2), ("groups", 2), ("data_format", "channels_first")],
)
def test_other_convolutions_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"An ImageConvolution must have {option}=.*Received: {option}="):
        ImageConvolution(4, 3, **{option: value})


def test_images_of_any_size_are_refused():
    with pytest.raises(ValueError, match=r"images of one size. Received: input_shape=\(None, None, 28, 1\)"):
        ImageConvolution(4, 3).build((None, None, 28, 1))

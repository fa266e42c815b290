"""The networks for CIFAR-10 at inference, against the same in TensorFlow's operations, written from their sources."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.architectures import CifarResNet, PreActResNet18, ResNet, ResNet20, RevNet, WideResNet

CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Mean and deviation of the training images, as the code of Wong et al. (2020) has them, but for its 0.2471."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Those of fb.resnet.torch and torchvision."""


class Layers:
    """A network's layers, with weights drawn at random, each kind in the order in which images go through it."""

    def __init__(self, model: keras.Model) -> None:
        rng = np.random.default_rng(0)
        for weight in model.weights:
            is_kernel = len(weight.shape) > 1
            draws = rng.normal(size=weight.shape) if is_kernel else rng.uniform(0.5, 1.5, weight.shape)
            weight.assign(draws * np.sqrt(2 / np.prod(weight.shape[:-1])) if is_kernel else draws)
        kernels = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        self.kernels = {size: iter([kernel for kernel in kernels if kernel.shape[0] == size]) for size in (1, 3)}
        self.norms = iter([layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)])
        self.logits = model.get_layer("logits")
        self.epsilon = 1e-5

    def convolve(self, x: tf.Tensor, strides: int = 1, size: int = 3) -> tf.Tensor:
        return tf.nn.conv2d(x, next(self.kernels[size]), strides, "SAME")

    def normalize(self, x: tf.Tensor) -> tf.Tensor:
        norm = next(self.norms)
        averages = norm.moving_mean, norm.moving_variance
        return tf.nn.batch_normalization(x, *averages, norm.beta, norm.gamma, self.epsilon)

    def activate(self, x: tf.Tensor, leak: float = 0.0) -> tf.Tensor:
        return tf.nn.leaky_relu(self.normalize(x), leak)

    def classify(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(x, axis=(1, 2)) @ self.logits.kernel + self.logits.bias


def standardize(images: np.ndarray, mean: tuple[float, ...], deviation: tuple[float, ...]) -> tf.Tensor:
    return tf.constant((images - mean) / deviation, tf.float32)


def with_more_channels(x: tf.Tensor, filters: int) -> tf.Tensor:
    missing = (filters - x.shape[-1]) // 2
    return tf.pad(x, [[0, 0], [0, 0], [0, 0], [missing, missing]])


def resnet20(layers: Layers, images: np.ndarray) -> tf.Tensor:
    """He et al. (2016), section 4.2: shortcuts skip pixels, and add zeros for new channels."""
    x = layers.activate(layers.convolve(standardize(images, *CIFAR10)))
    for filters, strides in ((16, 1), (16, 1), (16, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)):
        shortcut = with_more_channels(x[:, ::strides, ::strides], filters)
        x = layers.activate(layers.convolve(x, strides))
        x = tf.nn.relu(layers.normalize(layers.convolve(x)) + shortcut)
    return layers.classify(x)


def preactivation_resnet14(layers: Layers, images: np.ndarray) -> tf.Tensor:
    """He et al. (2016, Identity mappings), appendix: only the first shortcut starts behind an activation."""
    x = layers.activate(layers.convolve(standardize(images, *CIFAR10)))
    for index, (filters, strides) in enumerate(((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1))):
        shortcut = with_more_channels(x[:, ::strides, ::strides], filters)
        x = layers.convolve(layers.activate(x) if index else x, strides)
        x = layers.convolve(layers.activate(x)) + shortcut
    return layers.classify(layers.activate(x))


def preact_resnet18(layers: Layers, images: np.ndarray) -> tf.Tensor:
    """The code of Wong et al. (2020), but with the activation at its end that He et al. have."""
    x = layers.convolve(standardize(images, *CIFAR10))
    for strides in (1, 1, 2, 1, 2, 1, 2, 1):
        shortcut = layers.convolve(x, strides, size=1) if strides == 2 else x
        x = layers.convolve(layers.activate(x), strides)
        x = layers.convolve(layers.activate(x)) + shortcut
    return layers.classify(layers.activate(x))


def wide_resnet16(layers: Layers, images: np.ndarray) -> tf.Tensor:
    """Zagoruyko & Komodakis (2016), their code: shortcuts that change the shape are convolutions of what is active."""
    x = layers.convolve(standardize(images, *CIFAR10))
    for index, strides in enumerate((1, 1, 2, 1, 2, 1)):
        active = layers.activate(x)
        shortcut = x if index % 2 else layers.convolve(active, strides, size=1)
        x = layers.convolve(active, strides)
        x = layers.convolve(layers.activate(x)) + shortcut
    return layers.classify(layers.activate(x))


def wide_resnet14(layers: Layers, images: np.ndarray) -> tf.Tensor:
    """`model.py` of MadryLab/cifar10_challenge: leaky ReLUs, pooled shortcuts, the first one of what is active."""
    layers.epsilon = 1e-3  # the default of tf.contrib.layers.batch_norm
    x = layers.convolve(tf.image.per_image_standardization(images))
    for index, (filters, strides) in enumerate(((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1))):
        active = layers.activate(x, 0.1)
        start = x if index else active
        shortcut = with_more_channels(tf.nn.avg_pool2d(start, strides, strides, "VALID"), filters)
        x = layers.convolve(active, strides)
        x = layers.convolve(layers.activate(x, 0.1)) + shortcut
    return layers.classify(layers.activate(x, 0.1))


@pytest.mark.parametrize(
    ("network", "make"),
    [
        (resnet20, ResNet20),
        (preactivation_resnet14, lambda **options: CifarResNet(14, version=2, **options)),
        (preact_resnet18, PreActResNet18),
        (wide_resnet16, lambda **options: WideResNet(16, 2, **options)),
        (wide_resnet14, lambda **options: WideResNet(14, 2, **options)),
    ],
)
def test_a_network_is_that_of_its_source(network: Callable, make: Callable):
    images = np.random.default_rng(1).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    model = make(input_shape=images.shape[1:])
    expected = network(Layers(model), images).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(model(images, training=False), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("make", "size", "mean", "deviation"),
    [
        (lambda **options: RevNet(14, filters=(4, 4, 4, 4), **options), 8, *CIFAR10),
        (lambda **options: ResNet(18, **options), 32, *IMAGENET),
    ],
)
def test_images_are_normalised_inside(make, size, mean, deviation):
    """The networks above are compared as a whole; of these, the first layer."""
    model = make(input_shape=(size, size, 3))
    images = np.random.default_rng(0).uniform(size=(2, size, size, 3)).astype(np.float32)
    first = keras.Model(model.input, model.layers[1].output)
    np.testing.assert_allclose(first(images), standardize(images, mean, deviation), atol=1e-5)

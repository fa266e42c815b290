"""What the classifiers return, how they start, and which do not exist."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust.architectures import (
    CifarResNet,
    InceptionV3,
    LeNet,
    PreActResNet18,
    ResNet,
    ResNet20,
    RevNet,
    WideResNet,
)
from keras_robust.architectures.denoising import denoise
from keras_robust.architectures.parts import Parts
from keras_robust.layers import PerImageStandardization


@pytest.mark.parametrize(
    ("make", "shape", "classes"),
    [
        (lambda **options: WideResNet(10, 1, **options), (32, 32, 3), 10),
        (lambda **options: WideResNet(8, 2, normalization="group", **options), (8, 8, 1), 4),
        (lambda **options: ResNet(18, **options), (64, 64, 3), 7),
        (lambda **options: ResNet(50, normalization="mixture_batch", **options), (32, 32, 3), 5),
        (LeNet, (28, 28, 1), 10),
        (LeNet, (8, 8, 3), 4),
        (ResNet20, (32, 32, 3), 10),
        (ResNet20, (8, 8, 1), 3),
        (lambda **options: CifarResNet(8, version=2, normalization=None, **options), (8, 8, 3), 3),
        (lambda **options: WideResNet(10, 1, normalization=None, **options), (8, 8, 3), 3),
        (lambda **options: ResNet(18, version=2, denoising="gaussian", **options), (64, 64, 3), 5),
        (lambda **options: PreActResNet18(normalization=None, **options), (8, 8, 1), 4),
        (lambda **options: RevNet(14, filters=(8, 8, 16, 24), normalization="group", **options), (8, 8, 3), 4),
        (lambda **options: RevNet(26, filters=(4, 8, 8, 8), normalization=None, **options), (8, 8, 1), 4),
        pytest.param(
            lambda **options: InceptionV3(width=0.05, normalization=None, **options),
            (75, 80, 3),
            6,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_logits(make, shape, classes):
    """Finite, of shape (batch, classes), and no softmax: rows do not add up to 1."""
    model = make(num_classes=classes, input_shape=shape)
    images = np.random.default_rng(0).uniform(size=(2, *shape)).astype(np.float32)
    logits = np.asarray(model(images, training=False))
    assert logits.shape == (2, classes)
    assert np.isfinite(logits).all()
    assert not np.allclose(logits.sum(axis=1), 1)


def test_madry_initialization():
    """Deviation 0.1 truncated at 0.2, biases 0.1; Glorot's hidden layer lies within sqrt(6 / (3136 + 1024)) = 0.038."""
    kernel, bias = LeNet(initialization="madry").layers[-2].get_weights()
    assert 0.15 < np.abs(kernel).max() <= 0.2
    np.testing.assert_allclose(bias, 0.1)
    assert np.abs(LeNet().layers[-2].get_weights()[0]).max() < 0.039


@pytest.mark.parametrize(("zero_init_residual", "scale"), [(True, 0.0), (False, 1.0)])
def test_imagenet_initialization(zero_init_residual, scale):
    """By the number of outputs: a 3x3 convolution from 256 to 512 channels has a variance of 2 / (9 * 512)."""
    model = ResNet(18, input_shape=(32, 32, 3), zero_init_residual=zero_init_residual)
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    widening = next(kernel for kernel in kernels if kernel.shape == (3, 3, 256, 512))
    np.testing.assert_allclose(np.std(widening), np.sqrt(2 / (9 * 512)), rtol=0.01)
    np.testing.assert_allclose(np.std(model.get_layer("logits").kernel), 0.01, rtol=0.01)
    scales = [layer.gamma for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert sum((np.asarray(gamma) == scale).all() for gamma in scales) == (8 if scale == 0 else len(scales))


@pytest.mark.parametrize("kind", ["embedded_gaussian", "gaussian", "dot_product"])
def test_denoising_is_a_mean_over_all_pixels(kind):
    """Equations 3 and 4 of Xie et al. (2019) in NumPy; before training, with a scale of 0, the block does nothing."""
    inputs = keras.Input((3, 2, 4))
    model = keras.Model(inputs, denoise(Parts(0.0, "batch"), inputs, kind))
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 4)).astype(np.float32)
    np.testing.assert_array_equal(model(x), x)
    model.set_weights([np.random.default_rng(1).uniform(0.5, 1.5, w.shape) for w in model.weights])
    weights = {weight.path.split("/")[-1]: np.asarray(weight) for weight in model.weights}
    kernels = [np.asarray(w)[0, 0] for w in model.weights if w.path.endswith("kernel")]
    pixels = x.reshape(2, 6, 4)
    theta, phi = (pixels @ kernels[0], pixels @ kernels[1]) if kind == "embedded_gaussian" else (pixels, pixels)
    alike = np.einsum("nic,njc->nij", theta, phi)
    if kind == "dot_product":
        alike /= 6
    else:
        alike = np.exp(alike / np.sqrt(theta.shape[-1]))
        alike /= alike.sum(axis=2, keepdims=True)
    means = np.einsum("nij,njc->nic", alike, pixels) @ kernels[-1]
    scale = weights["gamma"] / np.sqrt(weights["moving_variance"] + 1e-5)
    expected = pixels + (means - weights["moving_mean"]) * scale + weights["beta"]
    np.testing.assert_allclose(model(x), expected.reshape(x.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_inception_v3_is_that_of_keras():
    """With the weights of `keras.applications.InceptionV3`, whose normalisation has no scale, the same logits."""
    theirs = keras.applications.InceptionV3(weights=None, input_shape=(139, 107, 3), classifier_activation=None)
    ours = InceptionV3(input_shape=(139, 107, 3), auxiliary_weight=None)

    def in_order(model: keras.Model, kind: type) -> list[keras.Layer]:
        layers = [layer for layer in model.layers if isinstance(layer, kind)]
        return sorted(layers, key=lambda layer: int(layer.name.rpartition("_")[2]) if layer.name[-1].isdigit() else -1)

    rng = np.random.default_rng(0)
    theirs.set_weights([w + np.abs(rng.normal(0.0, 0.1, w.shape)) for w in theirs.get_weights()])
    for kind in (keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.Dense):
        for mine, other in zip(in_order(ours, kind), in_order(theirs, kind), strict=True):
            scale = [np.ones_like(mine.gamma)] if kind is keras.layers.BatchNormalization else []
            mine.set_weights(scale + other.get_weights())
    images = rng.uniform(size=(2, 139, 107, 3)).astype("float32")
    np.testing.assert_allclose(ours(images), theirs(2 * images - 1), rtol=1e-3, atol=1e-3)


def test_without_normalization_a_block_starts_as_its_shortcut():
    """So the last convolution of each block gets a gradient, and not the first."""
    model = CifarResNet(8, input_shape=(8, 8, 3), normalization=None, version=2)
    kernels = [w for w in model.trainable_variables if w.path.endswith("kernel") and len(w.shape) == 4]
    assert [bool(np.any(kernel)) for kernel in kernels] == [True, *[True, False] * 3]
    assert len([w for w in model.trainable_variables if w.path.endswith("bias")]) == len(kernels) + 1


def test_unknown_initialization():
    with pytest.raises(ValueError, match="Received: initialization='he'"):
        LeNet(initialization="he")


@pytest.mark.parametrize(("depth", "width"), [(33, 10), (2, 1), (4, 1), (28, 0)])
def test_wide_resnets_that_do_not_exist(depth, width):
    with pytest.raises(ValueError, match=f"depth={depth}, width={width}"):
        WideResNet(depth, width)


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda: ResNet(51), "depth=51"),
        (lambda: ResNet(50, version=3), "version=3"),
        (lambda: ResNet(50, denoising="mean"), "denoising='mean'"),
        (lambda: ResNet(50, normalization="layer"), "normalization='layer'"),
        (lambda: CifarResNet(21), "depth=21"),
        (lambda: CifarResNet(2), "depth=2"),
        (lambda: CifarResNet(20, version=0), "version=0"),
        (lambda: RevNet(20), "depth=20"),
        (lambda: RevNet(2), "depth=2"),
        (lambda: RevNet(38, filters=(32, 32, 64)), "filters=\\(32, 32, 64\\)"),
        (lambda: RevNet(38, filters=(32, 32, 64, 62)), "filters=\\(32, 32, 64, 62\\)"),
        (lambda: RevNet(38, filters=(32, 64, 32, 64)), "filters=\\(32, 64, 32, 64\\)"),
        (lambda: InceptionV3(input_shape=(299, 74, 3)), "input_shape=\\(299, 74, 3\\)"),
        (lambda: InceptionV3(width=0), "width=0"),
        (lambda: InceptionV3(auxiliary_weight=-1.0), "auxiliary_weight=-1.0"),
    ],
)
def test_networks_that_do_not_exist(make, received):
    with pytest.raises(ValueError, match=f"Received: .*{received}"):
        make()


def test_per_image_standardization_is_tensorflows():
    """Also where an image has one colour, whose deviation is taken for 1 / sqrt(pixels)."""
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)
    images[1] = 0.5
    got = PerImageStandardization()(images)
    np.testing.assert_allclose(got, tf.image.per_image_standardization(images), atol=1e-5)


def test_resnet20_weight_decay_is_on_kernels_only():
    """The losses add up to 0.01 times the sum of squares of the 20 kernels."""
    model = ResNet20(input_shape=(8, 8, 3), weight_decay=0.01)
    squares = sum(np.sum(np.square(v)) for v in model.trainable_variables if v.path.endswith("kernel"))
    np.testing.assert_allclose(sum(float(loss) for loss in model.losses), 0.01 * squares, rtol=1e-5)

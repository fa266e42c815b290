"""Sizes of the classifiers, against the published numbers or a count by hand, and what they return."""

import numpy as np
import pytest
import tensorflow as tf

from keras_robust.architectures import LeNet, ResNet, ResNet20, WideResNet
from keras_robust.layers import PerImageStandardization


def test_lenet_size():
    """5*5*32 + 32, 5*5*32*64 + 64, 7*7*64*1024 + 1024, 1024*10 + 10: 3,274,634 weights (Madry et al., 2018)."""
    expected = 832 + 51264 + 3212288 + 10250
    assert LeNet().count_params() == expected


def test_resnet20_size():
    """Convolutions 432 + 13824 + 50688 + 202752, normalisation 1376, logits 650; option A has no projections.

    Stages: 6 of 9*16*16; 9*16*32 and 5 of 9*32*32; 9*32*64 and 5 of 9*64*64. Gammas and betas: 2 (7*16 + 6*32 + 6*64).
    """
    model = ResNet20()
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 269722
    assert len([v for v in model.trainable_variables if v.path.endswith("kernel")]) == 20


def trainable_weights(model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.parametrize(("depth", "expected"), [(28, 36_479_194), (34, 46_160_474), (32, 45_901_914)])
def test_wide_resnet_size(depth, expected):
    """RobustBench's WRN-28-10 and WRN-34-10; w32-10 has the blocks of the latter without its projections.

    These have 16 * 160 + 160 * 320 + 320 * 640 = 258,560 weights.
    """
    assert trainable_weights(WideResNet(depth, 10)) == expected


@pytest.mark.parametrize(
    ("depth", "expected"), [(18, 11_689_512), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)]
)
def test_imagenet_resnet_size(depth, expected):
    """The numbers of torchvision's models, whose architectures these are."""
    assert trainable_weights(ResNet(depth)) == expected


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


def test_unknown_initialization():
    with pytest.raises(ValueError, match="Received: initialization='he'"):
        LeNet(initialization="he")


@pytest.mark.parametrize(("depth", "width"), [(33, 10), (2, 1), (4, 1), (28, 0)])
def test_wide_resnets_that_do_not_exist(depth, width):
    with pytest.raises(ValueError, match=f"depth={depth}, width={width}"):
        WideResNet(depth, width)


def test_resnets_that_do_not_exist():
    with pytest.raises(ValueError, match="depth=51"):
        ResNet(51)


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

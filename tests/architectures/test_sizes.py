"""Numbers of trained weights and of multiplications, against published ones or a count by hand."""

import math
import operator

import keras
import numpy as np
import pytest

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

SMALL = (64, 64, 3)
"""Images for networks whose weights do not depend on their size."""


def trainable_weights(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def multiplications(model: keras.Model) -> int:
    """Returns those of the convolutions and dense layers for one image."""
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    return sum(math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1]) for layer in layers)


SLOW = pytest.mark.slow


def test_lenet_size():
    """5*5*32 + 32, 5*5*32*64 + 64, 7*7*64*1024 + 1024, 1024*10 + 10: 3,274,634 weights (Madry et al., 2018)."""
    expected = 832 + 51264 + 3212288 + 10250
    assert LeNet().count_params() == expected


@pytest.mark.parametrize(("normalization", "averages"), [("batch", 1376), ("group", 0)])
def test_resnet20_size(normalization, averages):
    """Convolutions 432 + 13824 + 50688 + 202752, normalisation 1376, logits 650; option A has no projections.

    Stages: 6 of 9*16*16; 9*16*32 and 5 of 9*32*32; 9*32*64 and 5 of 9*64*64. Gammas and betas: 2 (7*16 + 6*32 + 6*64).
    41.29 million multiplications are those of pytorchcv's ResNet-20, which has two projections of 131,072, as well as
    operations of normalisation.
    """
    model = ResNet20(normalization=normalization)
    assert trainable_weights(model) == 269722
    assert model.count_params() - 269722 == averages
    assert multiplications(model) == pytest.approx(41.29e6, rel=0.02)
    assert len([v for v in model.trainable_variables if v.path.endswith("kernel")]) == 20


@pytest.mark.parametrize(
    ("depth", "expected", "millions"),
    [(28, 36_479_194, 5247), (34, 46_160_474, 5247 + 6 * 235.9), (32, 45_901_914, 5247 + 6 * 235.9 - 28.8)],
)
def test_wide_resnet_size(depth, expected, millions):
    """RobustBench's WRN-28-10 and WRN-34-10; w32-10 has the blocks of the latter without its projections.

    These have 16 * 160 + 160 * 320 + 320 * 640 = 258,560 weights. The multiplications of WRN-28-10 are those of
    pytorchcv's tables, 5,246.98 million; each further convolution has 9 * 160**2 * 32**2 in every stage, and the
    projections have 16 * 160 * 32**2 + 160 * 320 * 16**2 + 320 * 640 * 8**2.
    """
    model = WideResNet(depth, 10)
    assert trainable_weights(model) == expected
    assert multiplications(model) == pytest.approx(1e6 * millions, rel=0.001)


@pytest.mark.parametrize(
    ("depth", "expected", "billions"),
    [
        (18, 11_689_512, 1.814),
        (50, 25_557_032, 4.089),
        pytest.param(101, 44_549_160, 7.801, marks=SLOW),
        pytest.param(152, 60_192_808, 11.514, marks=SLOW),
    ],
)
def test_imagenet_resnet_size(depth, expected, billions):
    """The numbers of torchvision's models, whose architectures these are; it calls multiplications GFLOPS."""
    model = ResNet(depth)
    assert trainable_weights(model) == expected
    assert multiplications(model) == pytest.approx(1e9 * billions, abs=5e5)


@pytest.mark.parametrize(
    ("depth", "version", "expected"),
    [
        (20, 2, 269_722),
        (32, 1, 464_154),
        pytest.param(44, 1, 658_586, marks=SLOW),
        pytest.param(56, 1, 853_018, marks=SLOW),
        pytest.param(56, 2, 853_018, marks=SLOW),
        pytest.param(110, 1, 1_727_962, marks=SLOW),
        pytest.param(110, 2, 1_727_962, marks=SLOW),
    ],
)
def test_cifar_resnet(depth, version, expected):
    """0.27, 0.46, 0.66, 0.85 and 1.7 million in table 6 of He et al. (2016).

    From ResNet-20's 269,722 each further block per stage adds 2 * 9 * (16**2 + 32**2 + 64**2) weights of convolutions
    and 4 * (16 + 32 + 64) of normalisation, 97,216. In version 2, a stage's first normalisation has the channels of the
    stage before, 16 and 32 fewer, and the last one 64, which the one behind the first convolution lacks: as many.
    """
    assert expected == 269_722 + (depth - 20) // 6 * 97_216
    assert trainable_weights(CifarResNet(depth, version=version)) == expected


@pytest.mark.parametrize(("final_normalization", "expected"), [(True, 11_172_170), (False, 11_171_146)])
def test_preact_resnet18(final_normalization, expected):
    """By stage of f filters and i inputs: 9 i f + 27 f**2, a shortcut of i f but in the first, normalisation 2 i + 6 f.

    Before them 27 * 64, after them logits 512 * 10 + 10 and perhaps normalisation 2 * 512. 11,171,146 is the number of
    the PyTorch code (kuangliu/pytorch-cifar) from which those of the robustness literature are made. Each weight of a
    convolution is multiplied once per pixel of its outputs, 32 x 32 in the first stage and a quarter in each further.
    """
    stages = ((64, 64), (64, 128), (128, 256), (256, 512))
    count = sum(9 * i * f + 27 * f**2 + (i * f if i != f else 0) + 2 * i + 6 * f for i, f in stages)
    count += 27 * 64 + 512 * 10 + 10 + (2 * 512 if final_normalization else 0)
    assert count == expected
    model = PreActResNet18(final_normalization=final_normalization)
    assert trainable_weights(model) == expected
    convolutions = [9 * i * f + 27 * f**2 + (i * f if i != f else 0) for i, f in stages]
    pixels = [32**2, 16**2, 8**2, 4**2]
    expected_multiplications = 27 * 64 * 32**2 + sum(map(operator.mul, convolutions, pixels)) + 512 * 10
    assert multiplications(model) == expected_multiplications == 555_422_720


@pytest.mark.parametrize(
    ("depth", "filters", "published", "expected"),
    [
        (38, (32, 32, 64, 112), 0.46e6, 464_890),
        (9, (32, 32, 64, 112), 0.46e6, 464_890),
        pytest.param(110, (32, 32, 64, 128), 1.73e6, 1_729_194, marks=SLOW),
    ],
)
def test_revnet(depth, filters, published, expected):
    """Table 2 of Gomez et al. (2017), and their code (`revnet-public`, resnet/models), counted.

    A residual function of i to f channels has 2 i + 2 f weights of normalisation and 9 i f + 9 f f of convolutions. A
    block has one of i to f and one of f to f; the first of all is without its first normalisation, as it follows one.
    """
    first, *stages = filters
    blocks = 3 if depth == 9 else (depth - 2) // 12
    count = 27 * first + 2 * first - first + 2 * stages[-1] + 10 * stages[-1] + 10
    half = first // 2
    for filters_of_stage in stages:
        f = filters_of_stage // 2
        count += 2 * half + 2 * f + 9 * half * f + 9 * f * f + (2 * blocks - 1) * (4 * f + 18 * f * f)
        half = f
    assert count == expected
    assert expected == pytest.approx(published, rel=0.015)
    model = RevNet(depth)
    assert trainable_weights(model) == expected
    assert model.layers[-2].input.shape == (None, 8, 8, filters[-1])  # what the mean is taken of


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(34, 21_797_672), (200, 64_673_832), (338, 100_996_136), (518, 147_936_296), (638, 179_229_736)],
)
@pytest.mark.slow
def test_deep_imagenet_resnet(depth, expected):
    """34: torchvision's; 200: that of the PyTorch image models; the others by what their further blocks have.

    A bottleneck that keeps its shape has 17 f**2 + 12 f weights, 280,064 in the second stage, 1,117,184 in the third.
    """
    if depth > 200:
        blocks = {338: (42, 64), 518: (66, 100), 638: (82, 124)}[depth]
        assert 3 * (6 + sum(blocks)) + 2 == depth
        assert expected == 64_673_832 + (blocks[0] - 24) * 280_064 + (blocks[1] - 36) * 1_117_184
    model = ResNet(depth, 1000, SMALL)
    assert trainable_weights(model) == expected
    if depth == 338:
        copy = keras.Model.from_config(model.get_config())  # Keras walks through the layers recursively
        assert trainable_weights(copy) == expected


@pytest.mark.parametrize(
    ("depth", "name"),
    [(50, "ResNet50V2"), pytest.param(101, "ResNet101V2", marks=SLOW), pytest.param(152, "ResNet152V2", marks=SLOW)],
)
def test_preactivation_imagenet_resnet(depth, name):
    """Those of `keras.applications`, but for the biases of some convolutions there: 25,568,360 - 19,008 at depth 50."""
    if depth == 50:
        expected = 25_568_360 - 19_008
    else:
        other = getattr(keras.applications, name)(weights=None)
        biases = [layer.bias for layer in other.layers if isinstance(layer, keras.layers.Conv2D) and layer.use_bias]
        expected = trainable_weights(other) - sum(int(np.prod(bias.shape)) for bias in biases)
    assert trainable_weights(ResNet(depth, 1000, SMALL, version=2)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("denoising", ["embedded_gaussian", "gaussian", "dot_product"])
def test_denoising_adds(denoising):
    """Per stage of c channels a 1x1 convolution and its normalisation, c**2 + 2 c, and c**2 of the embedding."""
    channels = (256, 512, 1024, 2048)
    added = sum((2 if denoising == "embedded_gaussian" else 1) * c**2 + 2 * c for c in channels)
    assert trainable_weights(ResNet(152, 1000, SMALL, denoising=denoising)) == 60_192_808 + added


@pytest.mark.parametrize(
    ("auxiliary_weight", "expected"), [(0.4, 27_161_264), pytest.param(None, 23_834_568, marks=SLOW)]
)
def test_inception_v3(auxiliary_weight, expected):
    """The numbers of torchvision's model, with auxiliary logits and without."""
    assert trainable_weights(InceptionV3(auxiliary_weight=auxiliary_weight)) == expected

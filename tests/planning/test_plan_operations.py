"""Costs of passes against closed forms and published numbers."""

import keras
import pytest
import tensorflow as tf
from keras import layers

import keras_robust as kr
from keras_robust.tools.planning.costs import cost_of
from keras_robust.tools.planning.passes import UPDATE, Pass

pytestmark = pytest.mark.graph

FLOAT = 4


def forward(classifier, images=1):
    return Pass(UPDATE, classifier, images, 1)


def input_gradient(classifier, images=1, **options):
    return Pass(UPDATE, classifier, images, 1, of_images=True, **options)


def training(classifier, images=1):
    return Pass(UPDATE, classifier, images, 1, of_weights=True, training=True)


@pytest.mark.parametrize(
    ("depth", "billions"),
    [(18, 1.814), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((50, 4.089), (152, 11.514)))],
)
def test_multiplications_of_a_resnet_are_the_published_ones(depth, billions):
    """Torchvision's tables of models have GFLOPS, by which they mean multiplications with an addition each."""
    cost = cost_of(forward(kr.architectures.ResNet(depth)))
    assert cost.flops / 2e9 == pytest.approx(billions, abs=0.0005)


def test_a_convolution_by_hand():
    """3 x 3 over 8 x 8 pixels of 2 channels with stride 2, 4 filters: 4 x 4 outputs. Then 5 logits of 64 features.

    The gradient in the weights costs as much as the outputs, and so does that in a layer's inputs; training needs no
    gradient in the images.
    """
    classifier = keras.Sequential(
        [keras.Input((8, 8, 2)), layers.Conv2D(4, 3, 2, padding="same"), layers.Flatten(), layers.Dense(5)]
    )
    convolution, logits = 2 * 4 * 4 * 4 * 9 * 2, 2 * 64 * 5
    assert cost_of(forward(classifier, 3)).flops == 3 * (convolution + logits)
    assert cost_of(input_gradient(classifier, 3)).flops == 3 * 2 * (convolution + logits)
    assert cost_of(training(classifier, 3)).flops == 3 * (2 * convolution + 3 * logits)


def test_depthwise_convolutions_by_hand():
    """3 x 3 over 4 x 4 pixels of 6 channels, each by itself, then 1 x 1 to 2 channels."""
    classifier = keras.Sequential(
        [keras.Input((4, 4, 6)), layers.SeparableConv2D(2, 3, padding="same"), layers.GlobalAveragePooling2D()]
    )
    depthwise, pointwise = 2 * 16 * 6 * 9, 2 * 16 * 6 * 2
    assert cost_of(forward(classifier)).flops == depthwise + pointwise
    assert cost_of(training(classifier)).flops == 2 * depthwise + 3 * pointwise


def test_memory_traffic_by_hand():
    """Dense layers from 6 to 5 (ReLU) to 3, one image.

    Forward, the first product reads 6 + 30 numbers and writes 5, and bias and ReLU turn these into 5 others, which the
    second product reads with 15 weights, to write 3, which the cross-entropy reads with the label.
    """
    classifier = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu"), layers.Dense(3)])
    first, between, second, loss = 6 + 30 + 5, 5 + 5, 5 + 15 + 3, 3 + 1
    assert cost_of(forward(classifier)).traffic == FLOAT * (first + between + second + loss)


@pytest.mark.parametrize("normalization", [layers.BatchNormalization, kr.layers.BatchNormalization])
def test_what_is_kept_by_hand(normalization):
    """A convolution to 8 x 8 x 4, batch normalisation, ReLU and a dense layer, two images.

    Training keeps the images for the gradient in the kernel, the convolution's outputs for the normalisation's, the
    ReLU's outputs (which are the dense layer's inputs, too), per channel the mean and the inverse deviation, and the
    gradient of the cross-entropy in 3 logits. An attack, in inference mode, keeps less: the normalisation is folded
    into the kernel of 3 x 3 x 4 numbers, which is kept.
    """
    classifier = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, padding="same"),
            normalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    activation = 8 * 8 * 4
    images = 2 * FLOAT * (64 + 2 * activation + 3)
    cost = cost_of(training(classifier, 2))
    assert images < cost.kept <= images + FLOAT * 4 * 4
    assert cost.workspace == 2 * 2 * FLOAT * activation
    attack = cost_of(input_gradient(classifier, 2))
    assert attack.kept == pytest.approx(2 * FLOAT * (activation + 3) + FLOAT * 9 * 4, abs=FLOAT * 4)


def test_low_precision_halves_the_traffic_of_an_attack():
    """Of LeNet, but for its last layer, the images and the weights, which stay in float32."""
    classifier = kr.architectures.LeNet()
    single = cost_of(input_gradient(classifier, 128))
    half = cost_of(input_gradient(classifier, 128, compute_dtype="bfloat16"))
    assert half.flops == single.flops
    assert 0.5 < half.traffic / single.traffic < 0.65
    assert {each.dtype for each in half.operations if each.flops} == {"bfloat16"}


def test_a_function_that_hides_its_operations_is_named():
    class Hiding(layers.Layer):
        def call(self, x):
            return tf.function(lambda x: x @ tf.ones((3, 3)))(x)

    with pytest.raises(ValueError, match=r"Received: .*PartitionedCall"):
        cost_of(forward(keras.Sequential([keras.Input((3,)), Hiding()])))


def test_a_shape_that_depends_on_the_images_is_named():
    class Selecting(layers.Layer):
        def call(self, x):
            return tf.boolean_mask(x, x[:, 0] > 0)

    with pytest.raises(ValueError, match="shapes that are known"):
        cost_of(forward(keras.Sequential([keras.Input((3,)), Selecting(), layers.Dense(2)])))


def test_an_operation_that_is_not_known_is_named():
    classifier = keras.Sequential([keras.Input((4, 4, 4, 1)), layers.Conv3D(2, 3), layers.Flatten()])
    with pytest.raises(ValueError, match="Received: Conv3D"):
        cost_of(forward(classifier))

"""Inception-v3 (Szegedy et al., 2016)."""

import dataclasses

import keras

from keras_robust.architectures.parts import Parts
from keras_robust.core.checks import check_weight
from keras_robust.core.execution import full_precision
from keras_robust.layers import AuxiliaryLogits

SMALLEST_IMAGE = 75
"""Smallest height and width. Below it nothing is left for the last stage."""
FEWEST_FILTERS = 16
"""Smallest number of filters of a convolution in a thinner network, as in TensorFlow's slim."""

Convolution = tuple[int, int | tuple[int, int]]
"""Filters and size."""


def InceptionV3(  # noqa: N802
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] = (299, 299, 3),
    weight_decay: float = 0.0,
    normalization: str | None = "batch",
    auxiliary_weight: float | None = 0.4,
    dropout: float = 0.2,
    width: float = 1.0,
) -> keras.Model:
    """Returns Inception-v3 with auxiliary logits: 27,161,264 trained weights, 23,834,568 without auxiliary logits.

    Any `RobustModel` trains on the auxiliary logits, and nothing else sees them: see `AuxiliaryLogits`. Initialisation
    of convolutions, dropout and weight of this loss are those of TensorFlow's slim. Normalisation also has a scale, as
    in torchvision, and a momentum of 0.99 instead of 0.9997.

    Args:
        num_classes: number of logits; 1001 in slim, whose class 0 is the background.
        input_shape: (height, width, channels) of images in [0, 1], at least 75 pixels high and wide. The network maps
            them to [-1, 1].
        weight_decay: coefficient of the sum of squared kernel weights in the loss; 2e-5 in slim.
        normalization: a name of `layers.make_normalization`, or None: see `parts.Parts`.
        auxiliary_weight: weight of the loss on the auxiliary logits. None builds a network without them.
        dropout: share of the features before the logits that training drops.
        width: factor of the numbers of filters. At least 16 filters remain.

    Raises:
        ValueError: if the images are too small, or `auxiliary_weight`, `width` or `normalization` is out of its range.
    """
    _check(input_shape, auxiliary_weight, width)
    make = Parts(weight_decay, normalization, momentum=0.99, epsilon=1e-3)
    blocks = _Blocks(make, width)
    inputs = keras.Input(input_shape)
    x = blocks.stem(keras.layers.Rescaling(2.0, offset=-1.0)(inputs))
    for pool_filters in (32, 64, 64):
        x = blocks.small_kernels(x, pool_filters)
    x = blocks.first_reduction(x)
    for filters in (128, 160, 160, 192):
        x = blocks.factorized(x, filters)
    middle = x
    x = blocks.second_reduction(x)
    for _ in range(2):
        x = blocks.expanded(x)
    logits = make.classify(x, num_classes, dropout)
    if auxiliary_weight is not None:
        auxiliary = blocks.auxiliary_logits(middle, num_classes)
        logits = AuxiliaryLogits(auxiliary_weight)([logits, auxiliary])
    return keras.Model(inputs, logits, name="inception_v3")


def _check(input_shape: tuple[int, int, int], auxiliary_weight: float | None, width: float) -> None:
    if min(input_shape[:2]) < SMALLEST_IMAGE:
        raise ValueError(f"Images must be at least 75 pixels high and wide. Received: input_shape={input_shape!r}")
    if auxiliary_weight is not None:
        check_weight("auxiliary_weight", auxiliary_weight)
    if not width > 0:
        raise ValueError(f"width must be positive. Received: width={width!r}")


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Figures 5 to 7 and 10 of the paper, with the filters of slim."""

    make: Parts
    width: float

    def convolve(
        self,
        x: keras.KerasTensor,
        filters: int,
        size: int | tuple[int, int],
        strides: int = 1,
        padding: str = "same",
        initializer: object = None,
    ) -> keras.KerasTensor:
        filters = max(int(self.width * filters), FEWEST_FILTERS)
        x = self.make.convolve(x, filters, size, strides, padding=padding, initializer=initializer)
        return self.make.activate(x)

    def chain(self, x: keras.KerasTensor, *convolutions: Convolution) -> keras.KerasTensor:
        for filters, size in convolutions:
            x = self.convolve(x, filters, size)
        return x

    def reduce(self, x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
        return self.convolve(x, filters, 3, 2, "valid")

    def pool(self, x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
        return self.convolve(keras.layers.AveragePooling2D(3, 1, padding="same")(x), filters, 1)

    def stem(self, x: keras.KerasTensor) -> keras.KerasTensor:
        x = self.convolve(self.reduce(x, 32), 32, 3, padding="valid")
        x = keras.layers.MaxPooling2D(3, 2)(self.convolve(x, 64, 3))
        x = self.convolve(self.convolve(x, 80, 1), 192, 3, padding="valid")
        return keras.layers.MaxPooling2D(3, 2)(x)

    def small_kernels(self, x: keras.KerasTensor, pool_filters: int) -> keras.KerasTensor:
        branches = [
            self.chain(x, (64, 1)),
            self.chain(x, (48, 1), (64, 5)),
            self.chain(x, (64, 1), (96, 3), (96, 3)),
            self.pool(x, pool_filters),
        ]
        return keras.layers.Concatenate()(branches)

    def first_reduction(self, x: keras.KerasTensor) -> keras.KerasTensor:
        branches = [
            self.reduce(x, 384),
            self.reduce(self.chain(x, (64, 1), (96, 3)), 96),
            keras.layers.MaxPooling2D(3, 2)(x),
        ]
        return keras.layers.Concatenate()(branches)

    def factorized(self, x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
        row, column = (1, 7), (7, 1)
        branches = [
            self.chain(x, (192, 1)),
            self.chain(x, (filters, 1), (filters, row), (192, column)),
            self.chain(x, (filters, 1), (filters, column), (filters, row), (filters, column), (192, row)),
            self.pool(x, 192),
        ]
        return keras.layers.Concatenate()(branches)

    def second_reduction(self, x: keras.KerasTensor) -> keras.KerasTensor:
        branches = [
            self.reduce(self.chain(x, (192, 1)), 320),
            self.reduce(self.chain(x, (192, 1), (192, (1, 7)), (192, (7, 1))), 192),
            keras.layers.MaxPooling2D(3, 2)(x),
        ]
        return keras.layers.Concatenate()(branches)

    def expanded(self, x: keras.KerasTensor) -> keras.KerasTensor:
        branches = [self.chain(x, (320, 1))]
        for convolutions in ([(384, 1)], [(448, 1), (384, 3)]):
            start = self.chain(x, *convolutions)
            branches += [self.convolve(start, 384, (1, 3)), self.convolve(start, 384, (3, 1))]
        return keras.layers.Concatenate()([*branches, self.pool(x, 192)])

    def auxiliary_logits(self, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
        """Returns float32 logits. If fewer than 5 pixels are left, kernels shrink, as in slim."""
        normal = keras.initializers.TruncatedNormal
        x = keras.layers.AveragePooling2D((min(5, x.shape[1]), min(5, x.shape[2])), 3)(x)
        x = self.convolve(x, 128, 1)
        size = (min(5, x.shape[1]), min(5, x.shape[2]))
        x = self.convolve(x, 768, size, padding="valid", initializer=normal(stddev=0.01))
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.layers.Dense(
            num_classes,
            kernel_initializer=normal(stddev=0.001),
            kernel_regularizer=self.make.regularizer,
            name="auxiliary",
            dtype=full_precision(),
        )(x)

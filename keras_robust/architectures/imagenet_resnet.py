"""Residual networks for ImageNet (He et al., 2016, section 4.1)."""

import functools
from collections.abc import Callable

import keras

from keras_robust.architectures import parts
from keras_robust.architectures.denoising import check_denoising, denoise
from keras_robust.architectures.parts import Parts

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    338: (3, 42, 64, 3),
    518: (3, 66, 100, 3),
    638: (3, 82, 124, 3),
}
"""Blocks of each stage by depth (He et al., 2016, table 1; for 200: He et al., 2016, identity mappings).

Xie & Yuille (2020, section 5) name ResNet-338, -518 and -638 without details; their public code ends at 152. The depth
fixes the sum, (depth - 2) / 3. Here the first and last stage keep 3 blocks, as between ResNet-152 and ResNet-200. The
second and third share the others in the ratio 2 to 3, as in ResNet-200. A bottleneck costs the same in every stage, so
these networks have the operations of the paper's figure 7 whatever the distribution of their blocks.
"""
BASIC = (18, 34)
"""Depths of networks with blocks of two 3x3 convolutions instead of bottlenecks of three."""
EXPANSION = 4
"""Filters at the end of a bottleneck per filter inside it."""
LONGEST_CHAIN = 36
"""Largest number of blocks in one model. Keras walks a model recursively, and fails at about a hundred."""

LOGITS_INITIALIZER = {"class_name": "RandomNormal", "config": {"stddev": 0.01}}
Convolutions = list[tuple[int, int, int]]
"""Filters, size and strides of the convolutions of a block."""


def ResNet(  # noqa: N802
    depth: int = 50,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    weight_decay: float = 0.0,
    normalization: str | None = "batch",
    version: int = 1,
    denoising: str | None = None,
    zero_init_residual: bool = True,
) -> keras.Model:
    """Returns a ResNet with projections as shortcuts.

    Version 1 is the network of Xie & Yuille (2020). Its blocks (bottlenecks; basic blocks at depth 18 and 34) reduce
    the resolution in their first 3x3 convolution. Kernels are initialised by the number of outputs, those of the logits
    with a standard deviation of 0.01, and the last scale of a block at 0 (Goyal et al., 2017). Version 2 is the
    pre-activation network of He et al. (2016, Identity mappings in deep residual networks). (The one in the code of
    Kannan et al. (2018) reduces the resolution at the end of a stage instead, and has biases.) ResNet-50 has 25,557,032
    trained weights in version 1 and 25,549,352 in version 2.

    Args:
        depth: 18, 34, 50, 101, 152, 200, 338, 518 or 638.
        num_classes: number of logits.
        input_shape: (height, width, channels) of images in [0, 1]. The network normalises them with ImageNet's mean and
            variance.
        weight_decay: coefficient of the sum of squared kernel weights in the loss (half of PyTorch's `weight_decay`).
        normalization: a name of `layers.make_normalization`, or None: see `parts.Parts`.
        version: 1 or 2.
        denoising: None, or the kind of the feature denoising block (see `denoising.denoise`) at the end of each stage;
            "embedded_gaussian" in ResNet-152 Denoise of Xie et al. (2019).
        zero_init_residual: whether the last scale of a block of version 1 starts at 0. False starts it at 1, as in
            torchvision.

    Raises:
        ValueError: if `depth`, `version`, `denoising` or `normalization` is unknown.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth must be one of {sorted(BLOCKS)}. Received: depth={depth!r}")
    parts.check_version(version)
    check_denoising(denoising)
    make = Parts(weight_decay, normalization, initializer=parts.FAN_OUT, logits_initializer=LOGITS_INITIALIZER)
    add_unit = functools.partial(_post_activation, zero_init=zero_init_residual) if version == 1 else _pre_activation
    add_block = functools.partial(_add_block, make, add_unit, is_basic=depth in BASIC)
    inputs = keras.Input(input_shape)
    x = parts.standardize(inputs, parts.IMAGENET_MEAN, parts.IMAGENET_VARIANCE)
    x = make.convolve(x, 64, 7, 2)
    x = keras.layers.MaxPooling2D(3, 2, padding="same")(make.activate(x) if version == 1 else x)
    for stage, blocks in enumerate(BLOCKS[depth]):
        x = add_block(x, filters=64 * 2**stage, strides=1 if stage == 0 else 2)
        x = _repeat(functools.partial(add_block, filters=64 * 2**stage), x, blocks - 1)
        if denoising is not None:
            x = denoise(make, x, denoising)
    if version == 2:
        x = make.activate(x)
    suffix = ("" if version == 1 else "_v2") + ("" if denoising is None else "_denoise")
    return keras.Model(inputs, make.classify(x, num_classes), name=f"resnet{depth}{suffix}")


def _add_block(
    make: Parts,
    add_unit: Callable[[Parts, keras.KerasTensor, Convolutions], keras.KerasTensor],
    x: keras.KerasTensor,
    filters: int,
    is_basic: bool,
    strides: int = 1,
) -> keras.KerasTensor:
    if is_basic:
        convolutions = [(filters, 3, strides), (filters, 3, 1)]
    else:
        convolutions = [(filters, 1, 1), (filters, 3, strides), (EXPANSION * filters, 1, 1)]
    return add_unit(make, x, convolutions)


def _repeat(
    add_block: Callable[[keras.KerasTensor], keras.KerasTensor], x: keras.KerasTensor, count: int
) -> keras.KerasTensor:
    """Returns `x` behind `count` blocks. Blocks beyond the longest chain are in a separate model."""
    for _ in range(min(count, LONGEST_CHAIN)):
        x = add_block(x)
    if count <= LONGEST_CHAIN:
        return x
    inputs = keras.Input(x.shape[1:])
    return keras.Model(inputs, _repeat(add_block, inputs, count - LONGEST_CHAIN))(x)


def _post_activation(
    make: Parts, x: keras.KerasTensor, convolutions: Convolutions, zero_init: bool
) -> keras.KerasTensor:
    filters, strides = convolutions[-1][0], max(strides for _, _, strides in convolutions)
    shortcut = x
    if strides > 1 or x.shape[-1] != filters:
        shortcut = make.normalize(make.convolve(x, filters, 1, strides))
    for convolution in convolutions[:-1]:
        x = make.activate(make.convolve(x, *convolution))
    gamma = "zeros" if zero_init else "ones"
    x = make.normalize(make.convolve(x, *convolutions[-1], ends_block=True), gamma_initializer=gamma)
    return keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))


def _pre_activation(make: Parts, x: keras.KerasTensor, convolutions: Convolutions) -> keras.KerasTensor:
    filters, strides = convolutions[-1][0], max(strides for _, _, strides in convolutions)
    shortcut, active = x, make.activate(x)
    if strides > 1 or x.shape[-1] != filters:
        shortcut = make.convolve(active, filters, 1, strides)
    x = make.convolve(active, *convolutions[0])
    for convolution in convolutions[1:-1]:
        x = make.convolve(make.activate(x), *convolution)
    x = make.convolve(make.activate(x), *convolutions[-1], ends_block=True)
    return keras.layers.Add()([x, shortcut])

"""Passes in inference mode with fewer operations: folded batch normalisation, and faster forms of single layers."""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.keras_private import flatten_layers, graph_of, own_call, replace_call
from keras_robust.core.seeds import Tensor
from keras_robust.layers.batch_normalization import BatchNormalization
from keras_robust.layers.image_convolution import ImageConvolution, convolve_images
from keras_robust.layers.mixture_batch_normalization import MixtureBatchNormalization, current_branch

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, ImageConvolution)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
LINEAR = (*CONVOLUTIONS, *DEPTHWISE, keras.layers.Dense)
"""Layers whose output is linear in their kernel. A subclass may compute anything, so the type must be one of these."""
NORMALIZATIONS = (keras.layers.BatchNormalization, BatchNormalization, MixtureBatchNormalization)

FEW_CHANNELS = 4
"""A convolution of images with at most so many channels has the gradient of an `ImageConvolution`."""


@contextlib.contextmanager
def fast_inference(classifier: keras.Layer) -> Iterator[None]:
    """Calls of `classifier` in inference mode compute the same, but for rounding, with fewer operations.

    - Batch normalisation is folded into the convolution or dense layer before it: in inference mode it is an affine
      function of each channel. Its factor is multiplied into the kernel, with today's weights, and its offset becomes
      the bias. A pair is folded if the convolution is called once, nothing but the normalisation uses its output, both
      are plain layers of Keras (or the toolkit), and it has no activation. Other normalisations stay as they are, for
      example those behind a sum.
    - A first convolution of images with few channels has the gradient of `ImageConvolution`.
    - `Normalization` multiplies instead of dividing.

    Only gradients with respect to images are meant. It acts on layers that are called or traced inside.

    Args:
        classifier: any built model. The graphs of functional and sequential models in it are searched for pairs.
    """
    calls: dict[keras.Layer, Callable[..., Any]] = {}
    for layer in flatten_layers(classifier):
        if type(layer) is keras.layers.Normalization and not layer.invert and layer.mean is not None:
            calls[layer] = _normalization_call(layer)
        elif type(layer) is keras.layers.Conv2D and _is_of_images(layer):
            calls[layer] = _linear_call(layer)
    for layer, normalization in foldable_pairs(classifier):
        calls[layer], calls[normalization] = _linear_call(layer, normalization), _identity
    before = [(layer, own_call(layer)) for layer in calls]
    try:
        for layer, call in calls.items():
            replace_call(layer, call)
        yield
    finally:
        for layer, own in before:
            replace_call(layer, own)


def foldable_pairs(classifier: keras.Layer) -> list[tuple[keras.Layer, keras.Layer]]:
    """Returns (layer, batch normalisation behind it) of all pairs in `classifier` that can be folded."""
    models = {id(layer): layer for layer in flatten_layers(classifier)}
    graphs = [graph_of(model) for model in models.values() if isinstance(model, keras.Model)]
    count = collections.Counter(id(operation) for graph in graphs for operation, _, _ in graph)
    pairs = []
    for graph in graphs:
        users: dict[int, list[Any]] = collections.defaultdict(list)
        for operation, inputs, _ in graph:
            for tensor in inputs:
                users[id(tensor)].append(operation)
        for layer, _, outputs in graph:
            if not _is_linear(layer) or len(users[id(outputs[0])]) != 1:
                continue
            (normalization,) = users[id(outputs[0])]
            if _normalizes_channels(normalization, outputs[0]) and count[id(layer)] == count[id(normalization)] == 1:
                pairs.append((layer, normalization))
    return pairs


def _is_linear(layer: Any) -> bool:
    return (
        type(layer) in LINEAR
        and layer.activation in (None, keras.activations.linear)
        and layer.activity_regularizer is None
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and not layer.quantization_mode
    )


def _normalizes_channels(layer: Any, inputs: keras.KerasTensor) -> bool:
    if type(layer) not in NORMALIZATIONS:
        return False
    layer = layer.clean if isinstance(layer, MixtureBatchNormalization) else layer
    return layer.axis in (-1, len(inputs.shape) - 1) and not getattr(layer, "renorm", False)


def _is_of_images(layer: keras.layers.Conv2D) -> bool:
    return (
        layer.built  # a subclassed model may have layers that it has not called yet
        and layer.kernel.shape[2] <= FEW_CHANNELS
        and (layer.strides, layer.padding, layer.dilation_rate, layer.groups) == ((1, 1), "same", (1, 1), 1)
        and layer.data_format == "channels_last"
        and not layer.quantization_mode
    )


def _linear_call(layer: keras.Layer, normalization: keras.Layer | None = None) -> Callable[..., Tensor]:
    """Returns what replaces the call of a linear layer: with the normalisation behind it, if there is one."""
    folded = None if normalization is None else _folded_weights(layer, normalization)

    def call(inputs: Tensor, training: bool | None = None) -> Tensor:
        del training
        kernel, bias = folded or (layer.kernel, layer.bias)
        outputs = _apply(layer, inputs, tf.cast(kernel, inputs.dtype))
        outputs = outputs if bias is None else tf.nn.bias_add(outputs, tf.cast(bias, outputs.dtype))
        return outputs if layer.activation is None else layer.activation(outputs)

    return call


def _folded_weights(layer: keras.Layer, normalization: keras.Layer) -> tuple[Tensor, Tensor]:
    """Returns kernel and bias of `layer` followed by `normalization`."""
    if isinstance(normalization, MixtureBatchNormalization):
        normalization = getattr(normalization, current_branch.get() or normalization.branch)
    kernel = tf.convert_to_tensor(layer.kernel)
    mean, variance = (
        tf.cast(average, kernel.dtype) for average in (normalization.moving_mean, normalization.moving_variance)
    )
    factor = tf.math.rsqrt(variance + normalization.epsilon)
    if normalization.scale:
        factor *= tf.cast(normalization.gamma, kernel.dtype)
    offset = -mean if layer.bias is None else tf.cast(layer.bias, kernel.dtype) - mean
    bias = offset * factor
    if normalization.center:
        bias += tf.cast(normalization.beta, kernel.dtype)
    # The output channels of a depthwise kernel are its last two axes.
    return kernel * tf.reshape(factor, kernel.shape[-2:] if type(layer) in DEPTHWISE else (-1,)), bias


def _apply(layer: keras.Layer, inputs: Tensor, kernel: Tensor) -> Tensor:
    """Returns the product of `layer` with a kernel."""
    if type(layer) is keras.layers.Dense:
        return keras.ops.matmul(inputs, kernel)
    if type(layer) in DEPTHWISE:
        options = {"padding": layer.padding, "dilation_rate": layer.dilation_rate, "data_format": layer.data_format}
        return keras.ops.depthwise_conv(inputs, kernel, strides=layer.strides, **options)
    if type(layer) is keras.layers.Conv2D and _is_of_images(layer) and None not in inputs.shape[1:]:
        return convolve_images(inputs, kernel)
    return layer.convolution_op(inputs, kernel)


def _identity(inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
    del training, mask
    return inputs


def _normalization_call(layer: keras.layers.Normalization) -> Callable[[Tensor], Tensor]:
    mean, variance = tf.convert_to_tensor(layer.mean), tf.convert_to_tensor(layer.variance)
    factor = 1.0 / tf.maximum(tf.sqrt(variance), keras.config.epsilon())
    return lambda inputs: (inputs - tf.cast(mean, inputs.dtype)) * tf.cast(factor, inputs.dtype)

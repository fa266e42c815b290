"""From a Keras classifier to the function of images to logits that an attack differentiates."""

import contextlib
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from keras_robust.core.checks import check_output
from keras_robust.core.custom_gradient import custom_gradient
from keras_robust.core.precision import full_precision, resolve_compute_dtype
from keras_robust.core.seeds import Tensor

ModelFn = Callable[[Tensor], Tensor]
"""Maps images (batch, ...) to logits (batch, classes), and is differentiable."""

COMPUTE_DTYPES = ("auto", "bfloat16", "float16", "float32")

FLOAT16_SCALE = 2.0**10
"""By which gradients are multiplied inside a classifier that computes in float16, whose smallest number is 2**-24."""


def check_compute_dtype(compute_dtype: str | None) -> None:
    """Raises `ValueError` unless `compute_dtype` is None or one of `COMPUTE_DTYPES`."""
    if compute_dtype is not None and compute_dtype not in COMPUTE_DTYPES:
        raise ValueError(f"compute_dtype is one of {COMPUTE_DTYPES} or None. Received: compute_dtype={compute_dtype!r}")


def low_precision_of(classifier: keras.Layer) -> str | None:
    """Returns the 16-bit dtype in which layers of `classifier` compute, or None where there is no such layer."""
    dtypes = {layer.compute_dtype for layer in _flatten(classifier)}
    return next((dtype for dtype in ("float16", "bfloat16") if dtype in dtypes), None)


@contextlib.contextmanager
def computing_in(classifier: keras.Layer, compute_dtype: str | None) -> Iterator[None]:
    """Runs the layers of `classifier` in `compute_dtype` over their float32 weights; those in 16 bits in float32 alone.

    It acts while a function is traced, so a compiled attack keeps its precision after the policies are back.
    """
    layers: list[keras.Layer] = []
    if compute_dtype is not None:
        name = "float32" if compute_dtype == "float32" else f"mixed_{compute_dtype}"
        changed = ("mixed_bfloat16", "mixed_float16") if compute_dtype == "float32" else ("float32",)
        layers = [layer for layer in _flatten(classifier) if layer.dtype_policy.name in changed]
        policy = keras.DTypePolicy(name)
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.dtype_policy = old


def _flatten(classifier: keras.Layer) -> list[keras.Layer]:
    # The only way Keras has to list nested layers of any kind of model.
    return list(classifier._flatten_layers())


def as_model_fn(classifier: keras.Layer, *, training: bool = False, compute_dtype: str | None = None) -> ModelFn:
    """Returns the function that attacks differentiate, of images to logits: float64 for float64 images, else float32.

    Args:
        classifier: any Keras model of images to logits, built.
        training: run it in training mode, as some published code does (batch statistics in batch normalisation, active
            dropout). What the pass would change in the classifier, such as moving averages, is dropped; so is the state
            of its random draws, and all passes of an attack drop out the same.
        compute_dtype: "bfloat16" or "float16" to run the layers that compute in float32 in low precision over their
            float32 weights; "float32" to run those in full precision that compute in 16 bits (mixed precision);
            "auto" for the faster of "bfloat16" and "float32" on this machine: see `core.precision.bfloat16_pays`.

    Raises:
        ValueError: if `compute_dtype` is unknown.
    """
    check_compute_dtype(compute_dtype)
    compute_dtype = resolve_compute_dtype(compute_dtype)

    def model_fn(images: Tensor) -> Tensor:
        with computing_in(classifier, compute_dtype):
            scale = FLOAT16_SCALE if low_precision_of(classifier) == "float16" else 1.0
            images = scale_gradient(images, 1.0 / scale)
            if training:
                weights = [v.value for v in classifier.trainable_variables]
                state = [v.value for v in classifier.non_trainable_variables]
                logits, _ = classifier.stateless_call(weights, state, images, training=True)
            else:
                logits = classifier(images, training=False)
        return scale_gradient(tf.cast(check_output(logits), full_precision(images.dtype)), scale)

    return model_fn


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Returns `x`, whose gradient is `scale` times that of what it is used for."""
    return x if scale == 1.0 else custom_gradient(lambda x: (tf.identity(x), lambda gradient: scale * gradient))(x)

"""From a Keras classifier to the function of images to logits that an attack differentiates."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from keras_robust.attacks.attack import ModelFn
from keras_robust.core.seeds import Tensor

COMPUTE_DTYPES = ("bfloat16", "float16")


def check_compute_dtype(compute_dtype: str | None) -> None:
    """Raises `ValueError` unless `compute_dtype` is None or one of `COMPUTE_DTYPES`."""
    if compute_dtype is not None and compute_dtype not in COMPUTE_DTYPES:
        raise ValueError(f"compute_dtype is one of {COMPUTE_DTYPES} or None. Received: compute_dtype={compute_dtype!r}")


@contextlib.contextmanager
def low_precision(classifier: keras.Layer, compute_dtype: str | None) -> Iterator[None]:
    """Runs the layers of `classifier` that compute in float32 in `compute_dtype`, over their float32 weights.

    It acts while a function is traced, so a compiled attack keeps its precision after the policies are back.
    """
    # The only way Keras has to list nested layers of any kind of model.
    layers = list(classifier._flatten_layers()) if compute_dtype else []
    layers = [layer for layer in layers if layer.dtype_policy.name == "float32"]
    policy = keras.DTypePolicy(f"mixed_{compute_dtype}") if layers else None
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.dtype_policy = old


def as_model_fn(classifier: keras.Layer, *, training: bool = False, compute_dtype: str | None = None) -> ModelFn:
    """Returns the function of images to float32 logits that attacks differentiate.

    Args:
        classifier: any Keras model of images to logits, built.
        training: run it in training mode, as some published code does (batch statistics in batch normalisation, active
            dropout). What the pass would change in the classifier, such as moving averages, is dropped.
        compute_dtype: "bfloat16" or "float16" to run in low precision over the float32 weights. Layers whose
            policy is not float32 keep theirs.

    Raises:
        ValueError: if `compute_dtype` is unknown.
    """
    check_compute_dtype(compute_dtype)

    def model_fn(images: Tensor) -> Tensor:
        with low_precision(classifier, compute_dtype):
            if training:
                weights = [v.value for v in classifier.trainable_variables]
                state = [v.value for v in classifier.non_trainable_variables]
                logits, _ = classifier.stateless_call(weights, state, images, training=True)
            else:
                logits = classifier(images, training=False)
        return tf.cast(logits, tf.float32)

    return model_fn

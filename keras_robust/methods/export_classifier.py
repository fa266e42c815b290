"""Export of a classifier in inference mode."""

import pathlib
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.checks import check_weights
from keras_robust.core.execution import full_precision
from keras_robust.layers import stored_activations


def export_classifier(
    classifier: keras.Layer,
    filepath: str | pathlib.Path,
    format: str = "tf_saved_model",
    verbose: bool | None = None,
    input_signature: Any = None,
    **kwargs: Any,
) -> None:
    """Exports a classifier as `keras.Model.export` does, in inference mode.

    (Keras itself does not export in inference mode: layers that augment images would still do so, and batch
    normalisation could run in training mode.) The exported model returns logits in full precision.

    Args:
        classifier: any built model.
        filepath: as in Keras.
        format: as in Keras.
        verbose: as in Keras.
        input_signature: as in Keras. None is the signature of the classifier's input: see `input_signature_of`.
        **kwargs: as in Keras.

    Raises:
        ValueError: if a weight is not finite; without `input_signature`, also if the shape of the input is unknown, the
            input is not dense, or the classifier cannot be traced. Nothing is written then.
    """
    check_weights(((weight.path, weight.numpy()) for weight in classifier.weights), f"model={classifier.name}")
    model = _Predicting(classifier)
    with stored_activations(classifier):
        if input_signature is None:
            input_signature = input_signature_of(classifier)
            _check_trace(model, input_signature)
        model.export(filepath, format=format, verbose=verbose, input_signature=input_signature, **kwargs)


def input_signature_of(classifier: keras.Layer) -> list[Any]:
    """Returns the input signature of `classifier` for an export: a list of one `tf.TensorSpec`, or of a nest of them.

    The batch has any size, and so have other axes that are None in the classifier. A single input is named "images".
    The inputs of a dict or list keep their own names.

    Raises:
        ValueError: if the shape of the input is not known, or an input is sparse or ragged.
    """
    inputs = getattr(classifier, "inputs", None) if isinstance(classifier, keras.Model) and classifier.built else None
    if inputs is None:
        shape = classifier.get_build_config() if classifier.built else None
        shape = (shape or {}).get("input_shape")
        if not isinstance(shape, list | tuple) or not all(size is None or isinstance(size, int) for size in shape):
            raise ValueError(
                "The classifier must know the shape of its input. Call it, build it or train it before the export. "
                f"Received: classifier={classifier!r}"
            )
        return [tf.TensorSpec((None, *shape[1:]), full_precision(), "images")]
    for each in inputs:
        if getattr(each, "sparse", False) or getattr(each, "ragged", False):
            raise ValueError(f"Inputs of an exported classifier must be dense tensors. Received: {each!r}")
    structure = inputs[0] if len(inputs) == 1 else inputs
    if not isinstance(classifier, keras.Sequential):
        structure = classifier.input  # may be a dict
    name = None if tf.nest.is_nested(structure) else "images"
    return [
        tf.nest.map_structure(
            lambda each: tf.TensorSpec((None, *each.shape[1:]), each.dtype, name or each.name), structure
        )
    ]


class _Predicting(keras.Model):
    """The classifier, always in inference mode."""

    def __init__(self, classifier: keras.Layer) -> None:
        super().__init__(name=classifier.name, autocast=False)
        self.classifier = classifier
        self.built = True

    def __call__(self, images: Any, training: bool | None = False) -> Any:  # the SavedModel has these argument names
        return super().__call__(images, training=training)

    def call(self, images: Any, training: bool | None = False) -> Any:
        del training
        return tf.nest.map_structure(_in_full_precision, self.classifier(images, training=False))


def _in_full_precision(tensor: Any) -> Any:
    return tf.cast(tensor, full_precision(tensor.dtype)) if tensor.dtype.is_floating else tensor


def _check_trace(model: keras.Model, input_signature: Any) -> None:
    try:
        tf.function(model.__call__, input_signature=input_signature, autograph=False).get_concrete_function()
    except Exception as error:
        raise ValueError(
            f"The classifier cannot be exported: {error}. "
            f"Received: classifier={model.classifier!r}, input_signature={input_signature}"
        ) from error

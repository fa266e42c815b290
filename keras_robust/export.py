"""Export: the clean classifier as a SavedModel."""

import pathlib
from typing import Any

import keras

from keras_robust.evaluation.inputs import classifier_of
from keras_robust.layers import branch_in_use, use_branch
from keras_robust.methods.export_classifier import export_classifier


def export(model: Any, path: str | pathlib.Path, *, branch: str | None = None) -> None:
    """Writes the classifier as a SavedModel that maps images to logits. To run it, you need only TensorFlow.

        loaded = tf.saved_model.load(path)
        logits = loaded.serve(images)

    `serve` takes the inputs of the classifier: images (batch, height, width, channels) of its dtype, or a dict or list
    of inputs. The batch size is free. Height and width are free if they are free in the classifier.

    `model.export(path)` of a training method writes the same SavedModel. With `format=` it also writes the other
    formats of Keras.

    Args:
        model: a `RobustModel`, another built Keras model from images to logits, or the path of a `.keras` file with
            one of them. Only the classifier of a `RobustModel` is exported, without its attack and training state.
        path: the folder to write. A SavedModel in it is replaced.
        branch: branch of mixture batch normalisation: "clean" or "adversarial". None means the branch that the model
            has selected.

    Raises:
        ValueError: if the model file does not exist, the model is not built or cannot be traced, a weight is not
            finite, the model has no such branch, or `path` holds anything but a SavedModel. Nothing is written then.
    """
    path = pathlib.Path(path)
    if isinstance(model, str | pathlib.Path):
        if not pathlib.Path(model).is_file():
            raise ValueError(f"The model file does not exist. Received: model={model}")
        model = keras.models.load_model(model)
    classifier = classifier_of(model)
    if not isinstance(classifier, keras.Model):
        raise ValueError(f"model must be a built Keras model from images to logits. Received: model={model!r}")
    if path.exists() and not (path / "saved_model.pb").exists() and (path.is_file() or any(path.iterdir())):
        raise ValueError(f"The export folder must be new or empty, or hold a SavedModel. Received: path={path}")
    with use_branch(branch):
        branch_in_use(classifier)
        export_classifier(classifier, path, verbose=False)

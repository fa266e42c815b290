"""Export: the clean classifier as a SavedModel."""

import pathlib
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.checks import check_weights
from keras_robust.evaluation.subject import classifier_of
from keras_robust.layers import branch_in_use, stored_activations, use_branch


def export(model: Any, path: str | pathlib.Path, *, branch: str | None = None) -> None:
    """Writes the classifier as a SavedModel that maps images to logits and needs TensorFlow alone.

        loaded = tf.saved_model.load(path)
        logits = loaded.serve(images)

    Args:
        model: a `RobustModel` (its classifier is exported, without attack and training state), another built Keras
            model of images to logits, or the path of a `.keras` file of one.
        path: folder to write to; a SavedModel that is there is replaced.
        branch: of mixture batch normalisation, "clean" or "adversarial"; None is the one that the model has selected.

    Raises:
        ValueError: if the model file does not exist, the model was never built, has a weight that is not finite or no
            such branch, or `path` holds something else.
    """
    path = pathlib.Path(path)
    if isinstance(model, str | pathlib.Path):
        if not pathlib.Path(model).is_file():
            raise ValueError(f"The model file does not exist. Received: model={model}")
        model = keras.models.load_model(model)
    classifier = classifier_of(model)
    if not isinstance(classifier, keras.Model) or not isinstance(getattr(classifier, "input_shape", None), tuple):
        raise ValueError(f"model is a built Keras model with one image input. Received: model={model!r}")
    check_weights(((weight.path, weight.numpy()) for weight in classifier.weights), f"model={classifier.name}")
    if path.exists() and not (path / "saved_model.pb").exists() and (path.is_file() or any(path.iterdir())):
        raise ValueError(f"The export folder is new, empty, or holds a SavedModel. Received: path={path}")
    archive = keras.export.ExportArchive()
    archive.track(classifier)
    with use_branch(branch), stored_activations(classifier):
        branch_in_use(classifier)
        archive.add_endpoint(
            "serve",
            lambda images: classifier(images, training=False),
            input_signature=[tf.TensorSpec((None, *classifier.input_shape[1:]), tf.float32, name="images")],
        )
        archive.write_out(str(path), verbose=False)

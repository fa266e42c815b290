"""Export: the clean classifier as a SavedModel."""

import pathlib
from typing import Any

import keras

from keras_robust.evaluation.inputs import classifier_of
from keras_robust.layers import branch_in_use, use_branch
from keras_robust.methods.export_classifier import export_classifier


def export(model: Any, path: str | pathlib.Path, *, branch: str | None = None) -> None:
    """Writes the classifier as a SavedModel that maps images to logits and needs TensorFlow alone.

        loaded = tf.saved_model.load(path)
        logits = loaded.serve(images)

    `serve` takes what the classifier takes: images of its dtype, of any number, and of any height and width where the
    classifier does; or a dict or list of inputs. `model.export(path)` of a training method writes the same, and other
    formats of Keras.

    Args:
        model: a `RobustModel` (its classifier is exported, without attack and training state), another built Keras
            model of images to logits, or the path of a `.keras` file of one.
        path: folder to write to; a SavedModel that is there is replaced.
        branch: of mixture batch normalisation, "clean" or "adversarial"; None is the one that the model has selected.

    Raises:
        ValueError: if the model file does not exist, the model was never built, cannot be traced, has a weight that is
            not finite or no such branch, or `path` holds something else; nothing is written then.
    """
    path = pathlib.Path(path)
    if isinstance(model, str | pathlib.Path):
        if not pathlib.Path(model).is_file():
            raise ValueError(f"The model file does not exist. Received: model={model}")
        model = keras.models.load_model(model)
    classifier = classifier_of(model)
    if not isinstance(classifier, keras.Model):
        raise ValueError(f"model is a built Keras model of images to logits. Received: model={model!r}")
    if path.exists() and not (path / "saved_model.pb").exists() and (path.is_file() or any(path.iterdir())):
        raise ValueError(f"The export folder is new, empty, or holds a SavedModel. Received: path={path}")
    with use_branch(branch):
        branch_in_use(classifier)
        export_classifier(classifier, path, verbose=False)

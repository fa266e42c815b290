"""A model around a classifier."""

from typing import Any

import keras

from keras_robust.methods.first_batch import check_ends_in_logits
from keras_robust.methods.multi_worker import MultiWorkerModel


class WrappedClassifier(MultiWorkerModel):
    """A model that is built as its classifier is.

    Args:
        classifier: any Keras model of images to logits.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: if the classifier is no Keras model or ends in a softmax.
    """

    def __init__(self, classifier: keras.Layer, **kwargs: Any) -> None:
        check_ends_in_logits(classifier)
        super().__init__(**kwargs)
        self.classifier = classifier

    def build(self, input_shape: Any) -> None:
        """Builds the classifier for images of `input_shape`, (None, height, width, channels)."""
        if not self.classifier.built:
            self.classifier.build(input_shape)
        self.built = True

    def build_as_classifier(self) -> None:
        """Builds the model of a built classifier.

        Not in `__init__`: Keras lets a subclass add layers and metrics only before.
        """
        if self.classifier.built and isinstance(getattr(self.classifier, "input_shape", None), tuple):
            self.build(self.classifier.input_shape)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves the model as `keras.Model.save` does, also one that was never compiled or called."""
        self.build_as_classifier()
        super().save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Saves the weights as `keras.Model.save_weights` does."""
        self.build_as_classifier()
        super().save_weights(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        """Loads weights as `keras.Model.load_weights` does."""
        self.build_as_classifier()
        super().load_weights(*args, **kwargs)

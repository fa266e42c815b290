"""How a robust model is compiled: a loss on logits, and every metric twice."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import low_precision_of
from keras_robust.core.checks import ONE_LOGIT
from keras_robust.core.execution import full_precision
from keras_robust.core.seeds import Tensor
from keras_robust.layers import ADVERSARIAL, CLEAN, auxiliary_layers
from keras_robust.methods.auxiliary import auxiliary_loss
from keras_robust.methods.first_batch import is_binary
from keras_robust.methods.metric_sets import MetricSets
from keras_robust.methods.on_logits import raise_value_error, warn, why_on_probabilities
from keras_robust.methods.wrapped_classifier import WrappedClassifier


class CompiledModel(WrappedClassifier):
    """A model whose metrics are logged for clean images, and with the prefix `robust_` for attacked ones."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._metric_sets = MetricSets(None, None)
        self._given_jit_compile: bool | str = "auto"
        self._refuse = raise_value_error

    def classification_loss(self, labels: Tensor, logits: Tensor, sample_weight: Tensor | None) -> Tensor:
        """Returns the compiled loss plus the classifier's own (weight decay), a scalar; to be called once per step."""
        return super().compute_loss(None, labels, logits, sample_weight)

    def auxiliary_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor | float:
        """Returns the weighted loss on the auxiliary logits of all passes of a training step, 0 where there are none.

        Clean and attacked images count alike. See `AuxiliaryLogits`.
        """
        return auxiliary_loss(auxiliary_layers(self.classifier), self.loss, labels, logits, sample_weight)

    def weight_decay(self) -> Tensor:
        """Returns the classifier's own losses alone, a scalar, for a `robust_loss` without the compiled loss."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return tf.add_n([tf.reduce_sum(loss) for loss in self.losses] or [tf.zeros((), full_precision())]) / replicas

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Tensor]:
        """Updates the clean and the robust metrics with the logits that there are; returns theirs and the loss."""
        logits = y_pred if isinstance(y_pred, dict) else {CLEAN: y_pred}
        results = {m.name: m.result() for m in super().metrics if not self.is_container(m)}  # the loss
        for name, metrics in ((CLEAN, self._metric_sets.clean), (ADVERSARIAL, self._metric_sets.robust)):
            if name in logits:
                count = tf.shape(logits[name])[0]
                weight = None if sample_weight is None else sample_weight[:count]
                results.update(MetricSets.update(metrics, y[:count], logits[name], weight))
        return results

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The loss, and last Keras's container of the metrics of `compile`, the clean and the robust ones."""
        return sorted(super().metrics, key=self.is_container)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile` does.

        Args:
            optimizer: as in Keras; with loss scaling where the classifier computes in float16.
            loss: on logits, such as `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`.
            loss_weights: as in Keras.
            metrics: a list; each is logged for clean images and, with the prefix `robust_`, for attacked ones.
            weighted_metrics: likewise, with sample weights; with the prefix `weighted_` where a metric has the name.
            **kwargs: as in Keras.

        Raises:
            ValueError: if the loss is missing, it or a metric is one on probabilities, or the metrics are not lists.
        """
        shape = getattr(self.classifier, "output_shape", None)
        classes = shape[-1] if isinstance(shape, tuple) else None
        _check_loss(loss, classes, self._refuse)
        self._metric_sets = MetricSets(metrics, weighted_metrics, classes, self._refuse)
        self.build_as_classifier()
        if kwargs.get("auto_scale_loss", True) and low_precision_of(self.classifier) == "float16":
            optimizer = _scaling_loss(optimizer)
        self._given_jit_compile = kwargs.get("jit_compile", "auto")
        plain, weighted = self._metric_sets.plain, self._metric_sets.weighted
        super().compile(optimizer, loss, loss_weights, plain, weighted, **kwargs)
        if plain or weighted:  # Keras does so in its first step; callbacks look for metrics before
            self._compile_metrics.build(tf.zeros((1,)), tf.zeros((1, 2)))

    def get_compile_config(self) -> dict[str, Any]:
        """Returns what `compile_from_config` needs, on any machine: `jit_compile` as it was given, "auto" or not."""
        config = super().get_compile_config()
        if not config:
            return {}
        metrics = keras.saving.serialize_keras_object(self._metric_sets.arguments)
        return {**config, **metrics, "jit_compile": self._given_jit_compile}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as the model that was saved was compiled, and makes the optimizer's variables.

        Warns where the loss or a metric takes logits for probabilities, in files of before that was refused.
        """
        self._refuse = warn
        try:
            self.compile(**keras.saving.deserialize_keras_object(config))
        finally:
            self._refuse = raise_value_error
        if self.built:
            self.optimizer.build(self.trainable_variables)


def _scaling_loss(optimizer: Any) -> keras.optimizers.Optimizer:
    """Returns the optimizer with loss scaling, as Keras does for a model that itself computes in float16."""
    optimizer = keras.optimizers.get(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")


def _check_loss(loss: Any, classes: int | None, refuse: Callable[[str], None]) -> None:
    """Refuses a loss that takes its input for probabilities, in any of the forms that Keras accepts."""
    if loss is None:
        raise ValueError("A robust model is compiled with a loss on logits. Received: loss=None")
    losses = loss if isinstance(loss, list | tuple) else [loss]
    hint = ONE_LOGIT if any(is_binary(each) for each in losses) else ""
    for each in losses:
        if each in ("crossentropy", "ce"):  # Keras's names for whichever cross-entropy fits; of probabilities
            reason: str | None = "from_logits=False"
        else:
            reason = why_on_probabilities(keras.losses.get(each) if isinstance(each, str) else each, classes)
        if reason is not None:
            refuse(
                "The loss must take logits, e.g. keras.losses.SparseCategoricalCrossentropy(from_logits=True), or be a "
                "function of (labels, logits) that begins with a softmax. "
                f"{hint}Received: loss={loss!r} with {reason}"
            )

"""Every metric and loss of Keras, and some of users: which take logits, and which take them for something else."""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.methods.loss_and_metrics import why_on_probabilities

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OPTIONS = {
    "IoU": {"num_classes": 3, "target_class_ids": [0]},
    "OneHotIoU": {"num_classes": 3, "target_class_ids": [0]},
    "MeanIoU": {"num_classes": 3},
    "OneHotMeanIoU": {"num_classes": 3},
    "MeanMetricWrapper": {"fn": keras.metrics.categorical_accuracy},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
}
# Of probabilities, of thresholds at 0.5, of logarithms; or of predicted labels.
REFUSED_METRICS = {
    *("AUC", "BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy", "KLDivergence"),
    *("Poisson", "MeanSquaredLogarithmicError", "BinaryAccuracy", "BinaryIoU", "Precision", "Recall"),
    *("TruePositives", "TrueNegatives", "FalsePositives", "FalseNegatives", "PrecisionAtRecall", "RecallAtPrecision"),
    *("SensitivityAtSpecificity", "SpecificityAtSensitivity", "Accuracy", "IoU", "MeanIoU"),
}
REFUSED_LOSSES = {
    *("BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy"),
    *("SparseCategoricalCrossentropy", "CategoricalGeneralizedCrossEntropy", "KLDivergence", "Poisson", "Dice"),
    *("MeanSquaredLogarithmicError", "Tversky"),
}
# Of the order of the logits, or of any real numbers; the last ones are not of labels and outputs, which others check.
RIGHT_METRICS = {
    *("CategoricalAccuracy", "SparseCategoricalAccuracy", "TopKCategoricalAccuracy", "SparseTopKCategoricalAccuracy"),
    *("F1Score", "FBetaScore", "OneHotIoU", "OneHotMeanIoU", "Hinge", "SquaredHinge", "CategoricalHinge"),
    *("CosineSimilarity", "ConcordanceCorrelation", "PearsonCorrelation", "R2Score", "LogCoshError"),
    *("MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredError", "RootMeanSquaredError"),
    *("MeanMetricWrapper", "Mean", "Sum", "Metric"),
}
RIGHT_LOSSES = {
    *("Hinge", "SquaredHinge", "CategoricalHinge", "CosineSimilarity", "Huber", "LogCosh", "MeanAbsoluteError"),
    *("MeanAbsolutePercentageError", "MeanSquaredError", "Circle", "CTC", "Loss"),
}


def classes_in(module, kind: type) -> list[str]:
    found = [name for name in dir(module) if inspect.isclass(getattr(module, name))]
    return [name for name in found if issubclass(getattr(module, name), kind)]


@pytest.mark.parametrize("name", classes_in(keras.metrics, keras.metrics.Metric))
def test_metrics_of_keras(name):
    """A metric that a later Keras adds is in neither list: decide."""
    reason = why_on_probabilities(getattr(keras.metrics, name)(**OPTIONS.get(name, {})), classes=3)
    assert (name in REFUSED_METRICS, name in RIGHT_METRICS) == (reason is not None, reason is None)


@pytest.mark.parametrize("name", classes_in(keras.losses, keras.losses.Loss))
def test_losses_of_keras(name):
    reason = why_on_probabilities(getattr(keras.losses, name)(), classes=3)
    assert (name in REFUSED_LOSSES, name in RIGHT_LOSSES) == (reason is not None, reason is None)


def entropy(labels, outputs):
    del labels
    return -tf.reduce_sum(outputs * tf.math.log(outputs), axis=1)


def entropy_of_softmax(labels, outputs):
    return entropy(labels, tf.nn.softmax(outputs))


def is_confident(labels, outputs):
    del labels
    return tf.cast(tf.reduce_max(outputs, axis=1) > 0.9, tf.float32)


def largest(labels, outputs):
    del labels
    return tf.reduce_max(outputs, axis=1)


def of_three_labels_only(labels, outputs):
    del outputs
    tf.debugging.assert_less(labels, 3)
    raise TypeError("something else")


class Confident(keras.metrics.Metric):
    """A metric with a state and a threshold."""

    def __init__(self, threshold: float, name: str = "confident", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self.threshold = threshold
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        del y_true, sample_weight
        self.count.assign_add(tf.reduce_sum(tf.cast(y_pred > self.threshold, tf.float32)))

    def result(self):
        return self.count

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}


OTHERS = {
    "precision of the largest logit": (keras.metrics.Precision(top_k=1), False),
    "precision of one class": (keras.metrics.Precision(class_id=1), True),
    "precision of logits above 0, a sigmoid of 0.5": (keras.metrics.Precision(thresholds=0), False),
    "binary accuracy likewise": (keras.metrics.BinaryAccuracy(threshold=0), False),
    "binary intersection over union likewise": (keras.metrics.BinaryIoU(threshold=0), False),
    "F1 of a threshold": (keras.metrics.F1Score(threshold=0.5), True),
    "AUC of logits": (keras.metrics.AUC(from_logits=True), False),
    "intersection over union of logits": (keras.metrics.MeanIoU(3, sparse_y_pred=False), False),
    "function of thresholds": (keras.metrics.binary_accuracy, True),
    "function with logarithms": (keras.losses.kl_divergence, True),
    "entropy": (entropy, True),
    "entropy of the softmax": (entropy_of_softmax, False),
    "confidence": (is_confident, True),
    "largest logit": (largest, False),
    "wrapped function": (keras.metrics.MeanMetricWrapper(is_confident), True),
    "partial function": (functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True), False),
    "partial function of probabilities": (
        functools.partial(keras.losses.categorical_generalized_cross_entropy, q=0.7),
        True,
    ),
    "what fails on anything": (of_three_labels_only, False),
    "a metric with a state": (Confident(0.9), True),
    "a metric with a state and a threshold at 0": (Confident(0.0), False),
}


@pytest.mark.parametrize("case", OTHERS)
def test_options_and_metrics_of_users(case):
    function, is_refused = OTHERS[case]
    assert (why_on_probabilities(function) is not None) == is_refused


def test_the_state_of_a_metric_is_left_alone(linear_classifier):
    """The look at what it does is at a copy."""
    metric = Confident(0.0)
    metric.update_state(np.zeros(2), np.ones((2, 3), np.float32))
    model = kr.NaturalTraining(linear_classifier())
    model.compile("sgd", SPARSE, metrics=[metric])
    assert float(metric.result()) == 6


@pytest.mark.parametrize("replicas", [1, 2])
def test_compile_refuses_what_would_log_nonsense(two_replicas, linear_classifier, replicas):
    """Precision and recall of logits at a threshold of 0.5 were 0 or anything."""
    with two_replicas.scope() if replicas == 2 else tf.distribute.get_strategy().scope():
        model = kr.NaturalTraining(linear_classifier())
        for metric in ("Precision", keras.metrics.Recall()):
            with pytest.raises(ValueError, match=r"Precision\(top_k=1\).*Received: metric .*the same result"):
                model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=[metric])
        with pytest.raises(ValueError, match="Received: loss='poisson' with no finite result"):
            model.compile("sgd", "poisson")
        with pytest.raises(ValueError, match="Received: loss='crossentropy' with from_logits=False"):
            model.compile("sgd", "crossentropy")
        with pytest.raises(ValueError, match=r"Received: metric .*Mean.*update_state has other arguments"):
            model.compile("sgd", SPARSE, metrics=[keras.metrics.Mean()])


def test_precision_of_the_largest_logit_is_logged(linear_classifier, batch):
    """Of one-hot labels, over all classes, it is the accuracy; F1 of the largest logits is between 0 and 1."""
    images, labels = batch(count=32, shape=(4, 4, 1))
    model = kr.AdversarialTraining(linear_classifier(), kr.attacks.FGSM(kr.Linf(0.1)))
    metrics = ["accuracy", keras.metrics.Precision(top_k=1, name="precision"), keras.metrics.F1Score(average="macro")]
    model.compile(keras.optimizers.SGD(1e-9), keras.losses.CategoricalCrossentropy(from_logits=True), metrics=metrics)
    history = model.fit(images, np.eye(3, dtype=np.float32)[labels], verbose=0).history
    np.testing.assert_allclose(history["robust_precision"], history["robust_accuracy"], rtol=1e-6)
    assert 0 < history["robust_f1_score"][0] < 1


def test_files_of_before_are_loaded_with_a_warning(linear_classifier, tmp_path):
    """As they were compiled when such metrics were not refused."""
    model = kr.NaturalTraining(linear_classifier())
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    model._metric_sets.arguments["metrics"] = [keras.metrics.Precision(name="precision")]
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match=r"Metrics must take logits.*Precision\(top_k=1\)"):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert set(loaded.metrics_by_name()) == {"loss", "precision", "robust_precision"}
    with pytest.raises(ValueError, match="Metrics must take logits"):
        loaded.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["Precision"])

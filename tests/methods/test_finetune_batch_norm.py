"""Training the normalisation alone."""

import keras
import numpy as np
import pytest

import keras_robust as kr

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


METHODS = {
    "clean": kr.NaturalTraining,
    "adversarial": lambda classifier: kr.AdversarialTraining(classifier, kr.attacks.FGSM(kr.Linf(0.1))),
}


@pytest.mark.filterwarnings(
    "ignore:Gradients do not exist:UserWarning", "ignore:NaturalTraining trains the clean branch"
)
@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize("branch", METHODS)
def test_only_the_normalization_changes(conv_classifier, batch, mixture, branch):
    """With mixture batch normalisation only that of the images that the method trains on."""
    classifier = conv_classifier(batch_norm=True)
    if mixture:
        classifier = kr.layers.replace_normalization(classifier, "mixture_batch")
    before = {v.path: np.array(v) for v in classifier.variables}
    model = METHODS[branch](classifier)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), SPARSE)
    images, labels = batch(count=8)
    history = kr.finetune_batch_norm(model, images, labels, epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    changed = {v.path for v in classifier.variables if np.abs(np.array(v) - before[v.path]).max() > 0}
    expected = {v for v in before if "norm" in v and (branch in v or not mixture)}
    assert changed == expected
    assert all(layer.trainable for layer in classifier.layers)


@pytest.mark.graph
@pytest.mark.parametrize("trained_before", [False, True])
def test_training_before_and_after_trains_everything(conv_classifier, batch, trained_before):
    """Neither a step traced before nor one of the fine-tuning is used for the other."""
    classifier = conv_classifier(batch_norm=True)
    model = kr.NaturalTraining(classifier)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), SPARSE)
    data, kernel = batch(count=8), classifier.layers[0].kernel
    if trained_before:
        model.fit(*data, verbose=0)
    start = np.array(kernel)
    kr.finetune_batch_norm(model, *data, verbose=0)
    np.testing.assert_array_equal(kernel, start)
    model.fit(*data, verbose=0)
    assert np.abs(np.array(kernel) - start).max() > 0


class ScaledBlock(keras.layers.Layer):
    """Weights of its own beside those of its layers."""

    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization()
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, x, training=None):
        return self.scale * self.norm(x, training=training)


def test_weights_of_a_layer_of_layers_do_not_change(batch):
    block = ScaledBlock()
    layers = [keras.Input((4, 4, 3)), block, keras.layers.Flatten(), keras.layers.Dense(3)]
    model = kr.NaturalTraining(keras.Sequential(layers))
    model.compile(keras.optimizers.SGD(0.1), SPARSE)
    kr.finetune_batch_norm(model, *batch(shape=(4, 4, 3)), verbose=0)
    assert float(block.scale) == 1
    assert np.abs(np.array(block.norm.gamma) - 1).max() > 0
    assert block.scale.trainable


def test_a_classifier_alone_is_an_error(conv_classifier, batch):
    with pytest.raises(ValueError, match=r"NaturalTraining\(classifier\)\. Received: method=<"):
        kr.finetune_batch_norm(conv_classifier(batch_norm=True), *batch())


def test_a_classifier_that_was_never_built_is_an_error(batch):
    model = kr.NaturalTraining(keras.Sequential([keras.layers.Flatten(), keras.layers.BatchNormalization()]))
    model.compile("sgd", SPARSE)
    with pytest.raises(ValueError, match=r"Received: 'sequential.*', which is not built$"):
        kr.finetune_batch_norm(model, *batch())


def test_averages_of_weights_are_an_error(conv_classifier, batch):
    model = kr.NaturalTraining(conv_classifier(batch_norm=True))
    model.compile(keras.optimizers.SGD(0.1, use_ema=True), SPARSE)
    with pytest.raises(ValueError, match="use_ema=True"):
        kr.finetune_batch_norm(model, *batch())


def test_no_normalization_is_an_error(linear_classifier, batch):
    model = kr.NaturalTraining(linear_classifier())
    model.compile("sgd", SPARSE)
    with pytest.raises(ValueError, match=r"must have batch normalisation\. Received: classifier="):
        kr.finetune_batch_norm(model, *batch(shape=(4, 4, 1)))

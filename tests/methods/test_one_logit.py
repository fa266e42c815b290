"""A binary classifier of one logit: one message wherever it is met, whose lines make a classifier of two logits."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.core.checks import ONE_LOGIT

ATTACK = kr.attacks.PGD(kr.Linf(0.1), steps=2)
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.uniform(size=(16, 4, 4, 1)).astype(np.float32), RNG.integers(0, 2, 16)
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BINARY = keras.losses.BinaryCrossentropy(from_logits=True)


def functional(activation=None):
    inputs = keras.Input((4, 4, 1))
    return keras.Model(inputs, keras.layers.Dense(1, activation=activation)(keras.layers.Flatten()(inputs)))


def sequential(activation=None):
    return keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1, activation=activation)]
    )


class Subclassed(keras.Model):
    """Only its output shows that it has one logit."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(1)

    def call(self, images):
        return self.dense(self.flatten(images))


def built():
    model = Subclassed()
    model(IMAGES)
    return model


def fit(classifier, loss=SPARSE):
    model = kr.AdversarialTraining(classifier, ATTACK)
    model.compile("sgd", loss)
    model.fit(IMAGES, LABELS, verbose=0)


def two_logits(classifier):
    """Runs the lines of the message."""
    names = {"keras": keras, "classifier": classifier}
    exec("\n".join(line.strip() for line in ONE_LOGIT.splitlines()[1:4]), names)
    return names["classifier"]


MEETINGS = {
    "evaluate": lambda: kr.evaluate(functional(), (IMAGES, LABELS), ATTACK, verbose=False),
    "evaluate a function": lambda: kr.evaluate(functional().call, (IMAGES, LABELS), ATTACK, verbose=False),
    "evaluate probabilities": lambda: kr.evaluate(functional("sigmoid"), (IMAGES, LABELS), ATTACK, verbose=False),
    "a method": lambda: kr.TRADES(functional(), ATTACK),
    "a method, sigmoid": lambda: kr.TRADES(functional("sigmoid"), ATTACK),
    "a method, sequential": lambda: kr.AdversarialTraining(sequential("sigmoid"), ATTACK),
    "a method, not built": lambda: kr.AdversarialTraining(
        keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)]), ATTACK
    ),
    "fit": lambda: fit(built()),
    "fit, binary cross-entropy": lambda: fit(built(), BINARY),
    "binary cross-entropy by name": lambda: fit(built(), "binary_crossentropy"),
    "binary cross-entropy of probabilities": lambda: fit(built(), keras.losses.BinaryCrossentropy()),
    "binary cross-entropy of two logits": lambda: fit(two_logits(functional()), BINARY),
    "its function": lambda: fit(two_logits(functional()), keras.losses.binary_focal_crossentropy),
}


@pytest.mark.parametrize("meeting", MEETINGS)
def test_one_message(meeting):
    with pytest.raises(ValueError, match="Received: ") as error:
        MEETINGS[meeting]()
    assert ONE_LOGIT in str(error.value)


@pytest.mark.parametrize("make", [functional, sequential])
def test_the_lines_give_the_same_probabilities_and_survive_saving(make, tmp_path):
    one = make()
    two = two_logits(one)
    np.testing.assert_allclose(keras.ops.softmax(two(IMAGES))[:, 1], keras.ops.sigmoid(one(IMAGES))[:, 0], rtol=1e-6)
    assert float(SPARSE(LABELS, two(IMAGES))) == pytest.approx(float(BINARY(LABELS[:, None], one(IMAGES))), rel=1e-6)
    two.save(tmp_path / "two.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "two.keras")(IMAGES), two(IMAGES))


def test_a_subclassed_model_is_called_on_an_input():
    one, x = built(), keras.Input((4, 4, 1))
    z = one(x)
    two = keras.Model(x, keras.layers.Concatenate()([0 * z, z]))
    fit(two)
    np.testing.assert_allclose(two(IMAGES)[:, 1:], one(IMAGES), rtol=1e-6)


def test_a_last_layer_that_is_not_the_output_is_no_logit():
    """A subclassed model lists its layers in the order of its attributes, not of its calls."""

    class Gated(keras.Model):
        def __init__(self):
            super().__init__()
            self.flatten, self.logits, self.gate = (
                keras.layers.Flatten(),
                keras.layers.Dense(3),
                keras.layers.Dense(1),
            )

        def call(self, images):
            features = self.flatten(images)
            return self.logits(features) * keras.ops.sigmoid(self.gate(features))

    fit(Gated())


def test_what_the_lines_make_is_trained_evaluated_and_exported(tmp_path):
    one = functional()
    before = np.array(one.get_weights()[0])
    method = kr.AdversarialTraining(two_logits(one), ATTACK)
    method.compile("sgd", SPARSE)
    method.fit(IMAGES, LABELS, verbose=0)
    assert np.abs(one.get_weights()[0] - before).max() > 0  # the two logits are of the same weights
    kr.export(method, tmp_path / "saved")
    direct, saved = (
        kr.evaluate(model, (IMAGES, LABELS), ATTACK, verbose=False) for model in (method, tmp_path / "saved")
    )
    assert direct.attacks == saved.attacks


def test_binary_cross_entropy_of_one_hot_labels_is_one_class_against_the_others():
    classifier = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model = kr.AdversarialTraining(classifier, ATTACK)
    model.compile("sgd", BINARY)
    model.fit(IMAGES, np.eye(3, dtype=np.float32)[RNG.integers(0, 3, 16)], verbose=0)

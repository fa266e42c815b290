"""One step of each method on softmax regression with SGD, against the formula in float64 NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from softmax_regression import CLASSES, COUNT, DENSE, EPSILON, IMAGES, LABELS, ONE_HOT, RATE, SPARSE, WEIGHT

import keras_robust as kr


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


class Step:
    """Loss and new weights after one SGD step of sum_i c_i CE_i over `rows` of images, plus a pairing penalty.

    d CE_i / d w = x_i (p_i - y_i)^T; the adversarial images are constants: x + epsilon sign(dCE/dx), clipped.
    """

    def __init__(self, classifier: keras.Model, targets: np.ndarray = ONE_HOT, epsilon: float = EPSILON) -> None:
        self.w, self.b = (np.asarray(v, np.float64) for v in classifier.get_weights())
        self.targets = targets
        self.clean = IMAGES.reshape(COUNT, -1).astype(np.float64)
        ascent = (softmax(self.clean @ self.w + self.b) - targets) @ self.w.T
        self.adversarial = np.clip(self.clean + epsilon * np.sign(ascent), 0, 1)

    def take(self, clean: np.ndarray, adversarial: np.ndarray, pairing: np.ndarray | float = 0.0):
        """Coefficients per example of clean losses (a prefix), adversarial losses, and of ||z - z'||^2."""
        x = np.concatenate([self.clean[: len(clean)], self.adversarial])
        y = np.concatenate([self.targets[: len(clean)], self.targets])
        c = np.concatenate([clean, adversarial])[:, None]
        p = softmax(x @ self.w + self.b)
        loss = -(c * y * np.log(p)).sum()
        w = x.T @ (c * (p - y))
        b = (c * (p - y)).sum(axis=0)
        apart = self.clean - self.adversarial
        pairing = np.broadcast_to(pairing, (COUNT,))[:, None]
        loss += (pairing * (apart @ self.w) ** 2).sum()
        w += 2 * apart.T @ (pairing * (apart @ self.w))
        return loss, [self.w - RATE * w, self.b - RATE * b]


ATTACK = kr.attacks.FGSM(kr.Linf(EPSILON))


def train(model: keras.Model, labels=LABELS, loss=SPARSE, **options) -> tuple[float, list[np.ndarray]]:
    """Returns the logged loss and the weights after one step."""
    model.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
    history = model.fit(IMAGES, labels, batch_size=COUNT, shuffle=False, verbose=0, **options)
    return history.history["loss"][0], model.classifier.get_weights()


def check(result, expected) -> None:
    np.testing.assert_allclose(result[0], expected[0], rtol=1e-5)
    for got, want in zip(result[1], expected[1], strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("joint_pass", [True, False])
@pytest.mark.parametrize(("fraction", "clean_count"), [(0.0, 0), (0.2, 2), (0.4, 4), (0.6, 6), (0.8, 8), (1.0, 10)])
@pytest.mark.parametrize("w", [0.5, 0.3])
def test_adversarial_training(linear_classifier, weighted, joint_pass, fraction, clean_count, w):
    """(w sum of clean + (1 - w) sum of adversarial) / (w n + (1 - w) m); sample weights multiply each loss."""
    classifier = linear_classifier()
    step = Step(classifier)
    total = w * clean_count + (1 - w) * COUNT
    of_example = WEIGHT if weighted else np.ones(COUNT)
    expected = step.take(w * of_example[:clean_count] / total, (1 - w) * of_example / total)
    model = kr.AdversarialTraining(classifier, ATTACK, clean_fraction=fraction, clean_weight=w, joint_pass=joint_pass)
    check(train(model, sample_weight=WEIGHT if weighted else None), expected)


@pytest.mark.graph
@pytest.mark.parametrize("known_size", [True, False])
@pytest.mark.parametrize(
    ("fraction", "clean_count"), [(0.01, 1), (0.14, 1), (0.24, 2), (0.26, 3), (0.96, 10), (1.0, 10)]
)
def test_the_clean_images_are_the_first_of_a_rounded_number(linear_classifier, known_size, fraction, clean_count):
    """At least one of the ten; whether the size of the batch is known when the step is traced or not."""
    model = kr.AdversarialTraining(linear_classifier(), ATTACK, clean_fraction=fraction)
    images = tf.TensorSpec((COUNT if known_size else None, 4, 4, 1))
    passes = tf.function(model.passes, input_signature=[images, images])(IMAGES, IMAGES / 2)
    np.testing.assert_array_equal(passes["clean"], IMAGES[:clean_count])
    np.testing.assert_array_equal(passes["adversarial"], IMAGES / 2)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("over_classes", "divisor"), [("mean", CLASSES), ("sum", 1)])
def test_adversarial_logit_pairing(linear_classifier, weighted, over_classes, divisor):
    """The mean of clean and adversarial losses plus 0.7 times the mean over examples of ||z - z'||^2 (/ classes)."""
    classifier = linear_classifier()
    of_example = WEIGHT if weighted else np.ones(COUNT)
    expected = Step(classifier).take(
        of_example / (2 * COUNT), of_example / (2 * COUNT), 0.7 * of_example / (COUNT * divisor)
    )
    pairing = kr.losses.PairingLoss("l2", over_classes=over_classes)
    model = kr.AdversarialLogitPairing(classifier, ATTACK, pairing_weight=0.7, pairing_loss=pairing)
    check(train(model, sample_weight=WEIGHT if weighted else None), expected)


def test_pairing_by_name_is_the_mean_over_classes(linear_classifier):
    expected = Step(linear_classifier()).take(*[np.full(COUNT, 0.05)] * 2, 0.5 / (COUNT * CLASSES))
    check(train(kr.AdversarialLogitPairing(linear_classifier(), ATTACK)), expected)


def test_pairing_weight_0_is_mixed_minibatch_pgd(linear_classifier):
    attack = kr.attacks.PGD(kr.Linf(EPSILON), steps=2)
    pairing = train(kr.AdversarialLogitPairing(linear_classifier(), attack, pairing_weight=0.0, seed=3))
    mixed = train(kr.AdversarialTraining(linear_classifier(), attack, clean_fraction=1.0, seed=3))
    for got, want in zip(pairing[1], mixed[1], strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_epsilon_0_is_natural_training(linear_classifier, fraction):
    """Without perturbation the loss is a mean over copies of the images: here all of them, equally often."""
    natural = linear_classifier()
    natural.compile(keras.optimizers.SGD(RATE), SPARSE)
    images, labels = IMAGES, LABELS
    if fraction == 0.4:
        images, labels = np.concatenate([IMAGES[:4], IMAGES]), np.concatenate([LABELS[:4], LABELS])
    natural.fit(images, labels, batch_size=len(images), shuffle=False, verbose=0)
    attack = kr.attacks.PGD(kr.Linf(0.0), steps=2)
    robust = train(kr.AdversarialTraining(linear_classifier(), attack, clean_fraction=fraction))
    for got, want in zip(robust[1], natural.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


METHODS = {
    "robust": lambda classifier: kr.AdversarialTraining(classifier, ATTACK),
    "mixture": lambda classifier: kr.AdversarialTraining(classifier, ATTACK, clean_fraction=0.4, clean_weight=0.3),
    "pairing": lambda classifier: kr.AdversarialLogitPairing(classifier, ATTACK),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["one-hot", "column", "list of weights"])
def test_forms_of_labels_and_weights_are_equal(linear_classifier, method, form):
    """One-hot labels, labels of shape (batch, 1) and weights of shape (batch, 1) change nothing."""
    make = METHODS[method]
    weight = WEIGHT[:, None] if form == "list of weights" else WEIGHT
    labels, loss = {"one-hot": (ONE_HOT.astype(np.float32), DENSE), "column": (LABELS[:, None], SPARSE)}.get(
        form, (LABELS, SPARSE)
    )
    expected = train(make(linear_classifier()), sample_weight=WEIGHT)
    check(train(make(linear_classifier()), labels, loss, sample_weight=weight), expected)


@pytest.mark.parametrize("method", METHODS)
def test_class_weight_2_doubles_the_loss(linear_classifier, method):
    """SGD moves twice as far: the weights of all examples are 2."""
    start = linear_classifier().get_weights()
    loss, weights = train(METHODS[method](linear_classifier()))
    double_loss, double = train(METHODS[method](linear_classifier()), class_weight=dict.fromkeys(range(CLASSES), 2.0))
    np.testing.assert_allclose(double_loss, 2 * loss, rtol=1e-5)
    for origin, one, two in zip(start, weights, double, strict=True):
        np.testing.assert_allclose(two - origin, 2 * (one - origin), atol=2e-6)


@pytest.mark.parametrize("method", METHODS)
def test_examples_of_weight_0_do_not_matter(linear_classifier, method):
    """Whatever their labels are."""
    weight = (np.arange(COUNT) % 3 > 0).astype(np.float32)
    other = np.where(weight == 0, (LABELS + 1) % CLASSES, LABELS)
    expected = train(METHODS[method](linear_classifier()), sample_weight=weight)
    check(train(METHODS[method](linear_classifier()), other, sample_weight=weight), expected)


@pytest.mark.parametrize("method", ["robust", "pairing"])
def test_label_smoothing(linear_classifier, method):
    """Smoothing 0.3: the loss takes 0.7 y + 0.1; the attack leaves the label given, so its signs are those of y."""
    classifier = linear_classifier()
    step = Step(classifier)
    step.targets = 0.7 * ONE_HOT + 0.1
    half = np.full(COUNT, 1 / (2 * COUNT))
    expected = step.take([], 2 * half) if method == "robust" else step.take(half, half, 0.5 / (COUNT * CLASSES))
    smooth = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3)
    check(train(METHODS[method](classifier), ONE_HOT.astype(np.float32), smooth), expected)


@pytest.mark.parametrize("method", METHODS)
def test_weight_decay_counts_once(method):
    """A classifier whose logits are constant has only the gradient of 0.1 w^2 left: w - RATE * 0.2 w."""
    kernel = keras.layers.Dense(CLASSES, kernel_regularizer=keras.regularizers.L2(0.1), kernel_initializer="ones")
    blind = keras.layers.Rescaling(0.0)
    classifier = keras.Sequential([keras.Input((4, 4, 1)), blind, keras.layers.Flatten(), kernel])
    _, weights = train(METHODS[method](classifier))
    np.testing.assert_allclose(weights[0], np.full((16, CLASSES), 1 - RATE * 0.2), rtol=1e-6)

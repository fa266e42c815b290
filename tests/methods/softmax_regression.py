"""Softmax regression in NumPy, float64: what tests of one step of a method compare with."""

import keras
import numpy as np

import keras_robust as kr

RATE, EPSILON, COUNT, CLASSES, SIZE = 0.5, 0.1, 10, 3, 16
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(COUNT, 4, 4, 1)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, COUNT)
ONE_HOT = np.eye(CLASSES)[LABELS]
WEIGHT = RNG.uniform(0.2, 2.0, COUNT).astype(np.float32)
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
DENSE = keras.losses.CategoricalCrossentropy(from_logits=True)
STEP = kr.attacks.FGSM(kr.Linf(EPSILON))
CLEAN = IMAGES.reshape(COUNT, SIZE).astype(np.float64)


def parameters(classifier: keras.Model) -> np.ndarray:
    return np.concatenate([np.asarray(v, np.float64).ravel() for v in classifier.get_weights()])


def logits(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    return x @ p[: SIZE * CLASSES].reshape(SIZE, CLASSES) + p[SIZE * CLASSES :]


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def cross_entropies(p: np.ndarray, x: np.ndarray, targets: np.ndarray = ONE_HOT) -> np.ndarray:
    return -(targets * log_softmax(logits(p, x))).sum(axis=1)


def divergences(reference: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (np.exp(log_softmax(reference)) * (log_softmax(reference) - log_softmax(z))).sum(axis=1)


def image_gradient(p: np.ndarray, x: np.ndarray, targets: np.ndarray = ONE_HOT) -> np.ndarray:
    """Of the cross-entropies, (count, size)."""
    return (np.exp(log_softmax(logits(p, x))) - targets) @ p[: SIZE * CLASSES].reshape(SIZE, CLASSES).T


def attacked(p: np.ndarray, x: np.ndarray = CLEAN, targets: np.ndarray = ONE_HOT, epsilon: float = EPSILON):
    return np.clip(x + epsilon * np.sign(image_gradient(p, x, targets)), 0, 1)


def gradient(loss, p: np.ndarray, width: float = 1e-6) -> np.ndarray:
    """Central differences."""
    steps = width * np.eye(len(p))
    return np.array([(loss(p + step) - loss(p - step)) / (2 * width) for step in steps])


def train(model: keras.Model, labels=LABELS, loss=SPARSE, images=IMAGES, batch_size=COUNT, epochs=1, **options):
    """Returns the logged loss of the last epoch and the weights."""
    model.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
    options = {"batch_size": batch_size, "epochs": epochs, "shuffle": False, "verbose": 0, **options}
    return model.fit(images, labels, **options).history["loss"][-1], parameters(model.classifier)


def check(result, loss, p: np.ndarray) -> None:
    np.testing.assert_allclose(result[0], loss(p), rtol=1e-5)
    np.testing.assert_allclose(result[1], p - RATE * gradient(loss, p), atol=3e-6)

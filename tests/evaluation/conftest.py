"""A linear problem whose robust accuracy is known in closed form."""

import keras
import numpy as np
import pytest


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """100 images away from the edges of the pixel range, labels, a tenth wrong, and weights of a linear classifier."""
    random = np.random.default_rng(0)
    images = random.uniform(0.3, 0.7, (100, 4, 4, 1)).astype(np.float32)
    kernel = random.normal(size=(16, 2)).astype(np.float32)
    kernel -= kernel.mean(0)  # so that the margins have mean 0
    margins = images.reshape(100, 16) @ (kernel[:, 1] - kernel[:, 0])
    labels = ((margins > 0) ^ (random.random(100) < 0.1)).astype(np.int64)
    return images, labels, kernel


@pytest.fixture
def solution(problem, linear_classifier) -> keras.Model:
    """The linear classifier with the weights of the problem."""
    classifier = linear_classifier(classes=2)
    classifier.set_weights([problem[2], np.zeros(2)])
    return classifier

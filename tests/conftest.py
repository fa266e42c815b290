"""Two logical CPU devices, a strategy over them, and classifiers small enough to be computed by hand."""

import logging
import os
import pathlib
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from keras_robust.distribution import create_strategy


def pytest_configure(config: pytest.Config) -> None:
    """Makes two CPU devices, before TensorFlow starts, and lets pass what only Keras could change."""
    # Keras 3.15 copies tf.Variables with np.array(x), for which TensorFlow's __array__ has no `copy` keyword (NumPy 2).
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    )
    hypothesis.settings.register_profile("no clock", deadline=None)  # a slow machine is no fault
    hypothesis.settings.load_profile("no clock")
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def two_replicas() -> tf.distribute.Strategy:
    """A `MirroredStrategy` over two logical CPU devices."""
    return create_strategy("mirrored")


@pytest.fixture
def linear_classifier() -> Callable[..., keras.Model]:
    """Makes softmax regression: logits = flatten(x) @ w + b."""

    def make(classes: int = 3, shape: tuple[int, ...] = (4, 4, 1), seed: int = 0) -> keras.Model:
        rng = np.random.default_rng(seed)
        model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)])
        size = int(np.prod(shape))
        model.set_weights([rng.normal(size=(size, classes)), rng.normal(size=classes)])
        return model

    return make


@pytest.fixture
def conv_classifier() -> Callable[..., keras.Model]:
    """Makes a convolution, batch normalisation where asked for, global pooling and logits."""

    def make(classes: int = 3, batch_norm: bool = False, seed: int = 0) -> keras.Model:
        initializer = keras.initializers.GlorotUniform
        layers = [keras.Input((8, 8, 1))]
        layers.append(keras.layers.Conv2D(4, 3, 2, activation="relu", kernel_initializer=initializer(seed)))
        if batch_norm:
            layers.append(keras.layers.BatchNormalization(momentum=0.9))
        layers.append(keras.layers.Flatten())
        layers.append(keras.layers.Dense(classes, kernel_initializer=initializer(seed + 1)))
        return keras.Sequential(layers)

    return make


@pytest.fixture
def batch() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Draws float32 images in [0, 1] and sparse labels."""

    def draw(
        count: int = 8, shape: tuple[int, ...] = (8, 8, 1), classes: int = 3, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        return rng.uniform(size=(count, *shape)).astype("float32"), rng.integers(0, classes, count)

    return draw


@pytest.fixture
def float64() -> Iterator[None]:
    """Classifiers, training and arrays passed to it are in float64 during the test."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")  # it follows floatx only until the first layer is made
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Images of differing size: 24 in train, 9 in test, a third each of the classes 0 cat, 1 dog and 2 emu.

    In each split, image number k is of class k % 3. Red is the column and green the row of a pixel; blue is 10 k.
    """
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 24), ("test", 9)):
        for number in range(count):
            height, width = 20 + 7 * number % 41, 20 + 11 * number % 37
            rows, columns = np.mgrid[:height, :width]
            pixels = np.stack([columns, rows, np.full_like(rows, 10 * number)], axis=2).astype(np.uint8)
            folder = root / split / ("cat", "dog", "emu")[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            suffix, options = [("png", {}), ("jpg", {"quality": 100, "subsampling": 0})][number % 2]
            PIL.Image.fromarray(pixels).save(folder / f"{number}.{suffix}", **options)
    return root


@pytest.fixture
def tensorflow_warnings() -> Iterator[list[str]]:
    """The warnings that TensorFlow logs during a test, but those of Keras's own functions, which many models cause."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.addFilter(lambda record: "TensorFlowTrainer" not in record.getMessage())
    handler.emit = lambda record: messages.append(record.getMessage())
    tf.get_logger().addHandler(handler)
    yield messages
    tf.get_logger().removeHandler(handler)

"""Loads small classifiers that others trained and published, from files of their weights.

A file has arrays `a0, a1, ...`: kernel, bias, kernel, bias, in the order of the layers and in the layout of Keras. A
ReLU follows every layer except the last. Images are in [0, 1], the output is logits. A file with "advertorch" or
"trades" in its name has the architecture of that package. Other files have that of Wong & Kolter (2018), for digits or
CIFAR-10.
"""

import gzip
import pathlib
from typing import Any

import numpy as np

CIFAR_MEAN = np.array([125.3, 123.0, 113.9], np.float32) / 255
CIFAR_DEVIATION = np.array([63.0, 62.1, 66.7], np.float32) / 255


def load_weights(path: str | pathlib.Path) -> list[np.ndarray]:
    """Returns the arrays of a file in their order."""
    with np.load(path) as file:
        return [file[f"a{index}"] for index in range(len(file.files))]


def keras_classifier(path: str | pathlib.Path) -> Any:
    """Returns the Keras model of a file: its name says which of the three architectures it has."""
    import keras
    from keras import layers

    weights, name = load_weights(path), pathlib.Path(path).stem
    channels = weights[0].shape[2]
    if "advertorch" in name:
        body = [
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
        ]
    elif "trades" in name:
        body = [
            *(layers.Conv2D(32, 3, activation="relu"), layers.Conv2D(32, 3, activation="relu")),
            layers.MaxPooling2D(),
            *(layers.Conv2D(64, 3, activation="relu"), layers.Conv2D(64, 3, activation="relu")),
            layers.MaxPooling2D(),
        ]
    else:
        body = [
            layers.ZeroPadding2D(1),
            layers.Conv2D(16, 4, strides=2, activation="relu"),
            layers.ZeroPadding2D(1),
            layers.Conv2D(32, 4, strides=2, activation="relu"),
        ]
        if channels == 3:
            body.insert(0, layers.Normalization(mean=CIFAR_MEAN, variance=CIFAR_DEVIATION**2))
    size = 32 if channels == 3 else 28
    hidden = [kernel.shape[1] for kernel in weights[:-2] if kernel.ndim == 2]
    head = [layers.Flatten(), *(layers.Dense(units, activation="relu") for units in hidden), layers.Dense(10)]
    model = keras.Sequential([keras.Input((size, size, channels)), *body, *head], name=name)
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
    return model


def torch_classifier(path: str | pathlib.Path) -> Any:
    """Returns the PyTorch module of a file of digits: images are (batch, 1, 28, 28)."""
    import torch
    from torch import nn

    weights, name = [torch.tensor(array) for array in load_weights(path)], pathlib.Path(path).stem
    if "advertorch" in name:
        body = [
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        ]
    elif "trades" in name:
        body = [
            *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        ]
    else:
        body = [
            *(nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU()),
        ]
    weights = [array.permute(3, 2, 0, 1) if array.ndim == 4 else array for array in weights]
    first = next(index for index, array in enumerate(weights) if array.ndim == 2)
    # PyTorch flattens channels first.
    (inputs, units), channels = weights[first].shape, len(weights[first - 1])
    side = round((inputs / channels) ** 0.5)
    weights[first] = weights[first].reshape(side, side, channels, units).permute(2, 0, 1, 3).flatten(0, 2)
    weights = [array.T if array.ndim == 2 else array for array in weights]
    head: list[nn.Module] = []
    for kernel in weights[first::2]:
        head += [nn.ReLU(), nn.Linear(kernel.shape[1], kernel.shape[0])]
    model = nn.Sequential(*body, nn.Flatten(), *head[1:])
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(value)
    return model.eval()


def first_digits(folder: str | pathlib.Path, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first test images of MNIST, (examples, 28, 28, 1) float32 in [0, 1], and labels, int64.

    Args:
        folder: of the four official files; TFDS has the images in another order.
        examples: how many.
    """
    arrays = []
    for name, header in (("t10k-images-idx3-ubyte.gz", 16), ("t10k-labels-idx1-ubyte.gz", 8)):
        with gzip.open(pathlib.Path(folder) / name) as file:
            arrays.append(np.frombuffer(file.read(), np.uint8, offset=header))
    images = arrays[0].reshape(-1, 28, 28, 1)[:examples].astype(np.float32) / 255
    return images, arrays[1][:examples].astype(np.int64)

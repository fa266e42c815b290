"""The classifier of the golden numbers, in Keras and in PyTorch: 2 convolutions, adversarially trained at Linf 0.1.

`make_small_cnn.py` made its weights, `small_cnn.npz`. Images are the first `IMAGES` test digits of `mnist_small`.
"""

import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent
IMAGES = 100


def weights() -> list[np.ndarray]:
    """Returns kernel and bias of both convolutions (height, width, in, out) and of the dense layer."""
    with np.load(FOLDER / "small_cnn.npz") as file:
        return [file[f"a{index}"] for index in range(6)]


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 images (IMAGES, 28, 28, 1) in [0, 1] and int64 labels (IMAGES,)."""
    with np.load(FOLDER / "small_cnn.npz") as file:
        return file["images"].astype(np.float32) / 255, file["labels"].astype(np.int64)


def keras_model():
    """Returns the classifier as a Keras model."""
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 4, strides=2, activation="relu"),
            layers.Conv2D(16, 4, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    if (FOLDER / "small_cnn.npz").exists():
        model.set_weights(weights())
    return model


def torch_model():
    """Returns the classifier as a PyTorch module of (batch, 1, 28, 28) images."""
    import torch

    kernels = weights()

    class Permute(torch.nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)  # the flattening order of Keras

    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 4, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 4, stride=2),
        torch.nn.ReLU(),
        Permute(),
        torch.nn.Flatten(),
        torch.nn.Linear(400, 10),
    )
    with torch.no_grad():
        for layer, kernel, bias in zip((model[0], model[2], model[6]), kernels[::2], kernels[1::2], strict=True):
            order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            layer.weight.copy_(torch.tensor(kernel.transpose(order)))
            layer.bias.copy_(torch.tensor(bias))
    return model.eval()

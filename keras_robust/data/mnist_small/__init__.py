"""Ten thousand training and two thousand test digits of MNIST, embedded in the package."""

from keras_robust.data.mnist_small.mnist_small import MnistSmall

__all__ = ["MnistSmall"]

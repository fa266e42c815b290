"""Data sets through TFDS, and the embedded `mnist_small`: importing this package registers it with TFDS."""

from keras_robust.data.loading import DatasetInfo, describe, load_split
from keras_robust.data.mnist_small import MnistSmall
from keras_robust.data.pipeline import MAX_SHUFFLE_BUFFER, check_batch_size, evaluation_batches, training_batches

__all__ = [
    "MAX_SHUFFLE_BUFFER",
    "DatasetInfo",
    "MnistSmall",
    "check_batch_size",
    "describe",
    "evaluation_batches",
    "load_split",
    "training_batches",
]

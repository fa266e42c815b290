"""Data sets through TFDS, folders of images, and the embedded `mnist_small`.

The first data set loads TFDS, which takes time. If you call TFDS yourself, `import keras_robust.data.mnist_small`
registers the embedded digits with it.
"""

from keras_robust._imports import on_first_use
from keras_robust.data.augmentation import AUGMENTATIONS, Augmentation
from keras_robust.data.loading import describe, load_split
from keras_robust.data.pipeline import (
    MAX_CACHE_BYTES,
    MAX_SHUFFLE_BUFFER,
    check_batch_size,
    evaluation_batches,
    training_batches,
)
from keras_robust.data.source import DatasetInfo

__getattr__ = on_first_use(__name__, {"MnistSmall": "keras_robust.data.mnist_small:MnistSmall"})

__all__ = [
    "AUGMENTATIONS",
    "MAX_CACHE_BYTES",
    "MAX_SHUFFLE_BUFFER",
    "Augmentation",
    "DatasetInfo",
    "MnistSmall",
    "check_batch_size",
    "describe",
    "evaluation_batches",
    "load_split",
    "training_batches",
]

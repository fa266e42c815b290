"""The examples of a data set, of the size that a classifier takes."""

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_robust.data import describe, evaluation_batches
from keras_robust.evaluation.subject import as_subject


def dataset_for(
    model: Any,
    name: str,
    split: str,
    *,
    batch_size: int,
    image_size: int | Sequence[int] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    order: str = "tfds",
    on_bad_image: str = "error",
) -> tf.data.Dataset:
    """Returns what `evaluate` measures a model on: `data.evaluation_batches` in the size that it takes.

    Args:
        model: as of `evaluate`.
        name: data set, as of `data.load_split`.
        split: split, as of `data.load_split`.
        batch_size: examples in a batch.
        image_size: (height, width) of the images, as of `data.evaluation_batches`. None leaves images of one size as
            they are, and takes the size of the model's input where they differ.
        data_dir: as of `data.load_split`.
        download: as of `data.load_split`.
        order: as of `data.load_split`.
        on_bad_image: as of `data.load_split`.

    Raises:
        ValueError: as `data.evaluation_batches`, if images differ in size and the size of the model's input is not
            known; and as `evaluate`, if there is no such model.
    """
    if image_size is None:
        info = describe(name, split, data_dir=data_dir, download=download)
        image_size = _size_of_input(model) if None in info.image_shape else 0
    return evaluation_batches(
        name,
        split,
        batch_size=batch_size,
        image_size=image_size,
        data_dir=data_dir,
        download=download,
        order=order,
        on_bad_image=on_bad_image,
    )


def _size_of_input(model: Any) -> int | tuple[int, int]:
    """Height and width of the images that a model takes, or 0 where they are not known."""
    height, width, *_ = as_subject(model).image_shape or (None, None)
    return 0 if height is None or width is None else (height, width)

"""How many examples a split has, without the data."""

import os

import tensorflow_datasets as tfds

from keras_robust.data import describe

SIZES = {
    "mnist": {"train": 60_000, "test": 10_000},
    "mnist_small": {"train": 10_000, "test": 2_000},
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "svhn_cropped": {"train": 73_257, "test": 26_032, "extra": 531_131},
    "imagenet2012": {"train": 1_281_167, "validation": 50_000},
}
"""Examples of each split, as the catalog of TFDS has them (tensorflow.org/datasets/catalog)."""


def count_examples(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> int:
    """Returns the number of examples in a split.

    Args:
        name: a data set of `SIZES`, a folder, or any that TFDS has prepared.
        split: in TFDS's syntax, such as "train[:95%]".
        data_dir: where TFDS keeps its data sets; None is its default.

    Raises:
        ValueError: if the data set is neither, or the split is unknown or empty.
    """
    if name not in SIZES:
        return _prepared_size(name, split, data_dir)
    sizes = SIZES[name]
    infos = {
        key: tfds.core.SplitInfo(name=key, shard_lengths=[size], num_bytes=0, filename_template=None)
        for key, size in sizes.items()
    }
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (KeyError, ValueError, AssertionError) as error:
        raise ValueError(f"The splits of {name!r} are {sizes}. Received: split={split!r} ({error})") from error
    count = 0
    for part in parts:  # its ends are None where it goes to the ends of the split
        end = sizes[part.splitname] if part.to is None else part.to
        count += end - (part.from_ or 0)
    if count < 1:
        raise ValueError(f"A split has at least one example. Received: split={split!r} of {name!r} with {sizes}")
    return count


def _prepared_size(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> int:
    try:
        return describe(name, split, data_dir=data_dir).num_examples
    except ValueError as error:
        raise ValueError(
            f"Sizes are known of {sorted(SIZES)}, of folders and of what TFDS has prepared; of others say --examples=N "
            f"and --validation_examples=M. Received: dataset={name!r} ({error})"
        ) from None

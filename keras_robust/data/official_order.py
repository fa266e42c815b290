"""The published order of a data set. TFDS writes each split shuffled, by hashes of the examples' keys."""

import re
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing

from keras_robust.data.mnist_small import MnistSmall
from keras_robust.data.mnist_small.mnist_small import official_places

ORDERS = ("tfds", "official")

NUMBERED = (
    *("cifar10", "cifar100", "cifar10_1", "cifar10_corrupted", "svhn_cropped", "stl10"),
    *("mnist", "fashion_mnist", "kmnist", "emnist", "mnist_corrupted", MnistSmall.name),
)
"""Data sets whose builders use the place in the published files as the key of an example (TFDS 4.9)."""


def check_order(order: str) -> None:
    """Raises `ValueError` unless `order` is one of `ORDERS`."""
    if order not in ORDERS:
        raise ValueError(f"order must be one of {ORDERS}. Received: order={order!r}")


def order_is_not_known(name: str) -> str:
    """Returns the message for a data set whose official order does not exist or is unknown."""
    return (
        f"order='official' needs one of the data sets {sorted(NUMBERED)}. TFDS does not keep that of others. "
        f"Received: order='official' for name={name!r}"
    )


def official_records(builder: tfds.core.DatasetBuilder, name: str, split: str) -> tf.data.Dataset:
    """Returns pairs of encoded image and label in the official order, which slices use as well.

    The encoded images of the slice are held in memory while they are sorted.

    Args:
        builder: a prepared builder.
        name: name of the data set, for messages.
        split: a split or slice as in `loading.load_split`, with at least one example.

    Raises:
        ValueError: if the official order is not known.
    """
    if builder.name not in NUMBERED:
        raise ValueError(order_is_not_known(name))
    parts = [
        _part(builder, name, part.splitname, slice(part.from_, part.to))
        for part in tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
    ]
    records = parts[0]
    for part in parts[1:]:
        records = records.concatenate(part)
    return records


def _part(builder: tfds.core.DatasetBuilder, name: str, split: str, chosen: slice) -> tf.data.Dataset:
    """Returns a slice of one split."""
    places = _places(builder, name, split)
    wanted = np.argsort(places)[chosen]  # positions in TFDS's order
    is_wanted = np.zeros(len(places), bool)
    is_wanted[wanted] = True
    order = np.searchsorted(np.flatnonzero(is_wanted), wanted)  # positions among the wanted ones
    decoders = {builder.info.supervised_keys[0]: tfds.decode.SkipDecoding()}
    records = _in_sequence(builder, split, decoders, as_supervised=True)
    kept = records.enumerate().filter(lambda number, _: tf.gather(is_wanted, number)).map(lambda _, record: record)
    sorted_records = kept.batch(len(wanted)).map(lambda *record: tuple(tf.gather(part, order) for part in record))
    return sorted_records.unbatch().apply(tf.data.experimental.assert_cardinality(len(wanted)))


def _places(builder: tfds.core.DatasetBuilder, name: str, split: str) -> np.ndarray:
    """Returns a number for each example, in TFDS's order. Sorting by it gives the official order.

    If examples have ids such as "test_00042", the number is read from them. Otherwise the shuffle of TFDS is repeated:
    TFDS sorts the examples by hashes of their keys, salted with the name of the split.

    Raises:
        ValueError: if the ids contain no such numbers.
    """
    if "id" in builder.info.features:
        ids = _in_sequence(builder, split, tfds.decode.PartialDecoding({"id": True}))
        texts = [example["id"].decode() for example in ids.as_numpy_iterator()]
        matches = [re.fullmatch(rf"{split}_(\d+)", text) for text in texts]
        numbers = [int(match[1]) for match in matches if match]
        if len(set(numbers)) < len(texts):
            raise ValueError(
                f"The official order needs ids such as '{split}_00042', each once. Received: "
                f"order='official' for name={name!r}, whose first id in {split!r} is {texts[0]!r}"
            )
        return np.array(numbers)
    if builder.name == MnistSmall.name:
        keys = official_places(split)
    else:
        keys = np.arange(builder.info.splits[split].num_examples)
    hasher = hashing.Hasher(split)
    return keys[np.argsort([f"{hasher.hash_key(int(key)):032x}" for key in keys])]


def _in_sequence(
    builder: tfds.core.DatasetBuilder, split: str, decoders: Any, *, as_supervised: bool = False
) -> tf.data.Dataset:
    """Returns a split, one file after the other. TFDS would read 16 examples of each file in turn."""
    options = tf.data.Options()
    options.deterministic = True
    read_config = tfds.ReadConfig(options=options, try_autocache=False, interleave_cycle_length=1)
    return builder.as_dataset(split=split, decoders=decoders, read_config=read_config, as_supervised=as_supervised)

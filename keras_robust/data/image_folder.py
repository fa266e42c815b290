"""Folders of images, PATH/SPLIT/CLASS/*.jpg and so on, used as the data set "folder:PATH"."""

import collections
import dataclasses
import functools
import pathlib
import posixpath
import random
from collections.abc import Sequence

import tensorflow as tf
from absl import logging
from etils import epath

from keras_robust.data.decoding import decode_file, what_is_wrong

PREFIX = "folder:"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
SYSTEM = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
SYSTEM_FILES = ("Thumbs.db", "ehthumbs.db", "desktop.ini")
ON_BAD_IMAGE = ("error", "skip")
NAMED = 3
"""Largest number of file names in a log message."""

Example = tuple[str, str]
"""Path and class of an image."""


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images of a folder.

    Attributes:
        name: "folder:PATH", as it was given.
        classes: names of the classes in alphabetical order, which is the order of their numbers.
        splits: images of each split by its name, in a fixed random order that depends only on the names of the split
            and the files: the order of TFDS's `ImageFolder`.
    """

    name: str
    classes: list[str]
    splits: dict[str, list[Example]]

    def examples(self, split: str) -> list[Example]:
        """Returns the images of a split, or of slices such as "train[:90%]", in their order.

        Raises:
            KeyError: if there is no such split.
            ValueError: if the slice ends outside the split, or is not a slice.
        """
        import tensorflow_datasets as tfds  # takes its time to load

        infos = {
            name: tfds.core.SplitInfo(name=name, shard_lengths=[len(examples)], num_bytes=0, filename_template=None)
            for name, examples in self.splits.items()
        }
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
        return [example for part in parts for example in self.splits[part.splitname][part.from_ : part.to]]

    def readable(self, examples: Sequence[Example], split: str) -> list[Example]:
        """Returns the readable images, and logs the others. Each image is decoded once per process.

        Args:
            examples: result of `examples`. Slice and order count all files.
            split: name of the split, for messages.

        Raises:
            ValueError: if no image of a class can be read.
        """
        bad = _bad_images(tuple(path for path, _ in examples), self.name, split)
        kept = [example for example in examples if example[0] not in bad]
        lost = sorted({label for _, label in examples} - {label for _, label in kept})
        if lost:
            raise ValueError(
                f"Each class needs at least one readable image. Received: name={self.name!r}, split={split!r}, where "
                f"no file of the class {lost[0]!r} can be read"
            )
        return kept


def check_on_bad_image(on_bad_image: str) -> None:
    """Raises `ValueError` unless `on_bad_image` is one of `ON_BAD_IMAGE`."""
    if on_bad_image not in ON_BAD_IMAGE:
        raise ValueError(f"on_bad_image must be one of {ON_BAD_IMAGE}. Received: on_bad_image={on_bad_image!r}")


def open_folder(name: str) -> ImageFolder:
    """Lists a folder of images. Hidden files and folders, and those of operating systems, are ignored.

    Files that are not images are left out and logged.

    Args:
        name: "folder:PATH". The path may be in a bucket.

    Raises:
        ValueError: if there is no such folder, it has no images in PATH/SPLIT/CLASS, or its splits have images of
            different classes.
    """
    root = str(epath.Path(name.removeprefix(PREFIX)).expanduser())
    if not tf.io.gfile.isdir(root):
        raise ValueError(f"folder:PATH must name an existing folder. Received: name={name!r}")
    splits: dict[str, list[Example]] = {}
    classes: set[str] = set()
    others: collections.Counter[str] = collections.Counter()
    for split in _folders(root):
        split_folder = posixpath.join(root, split)
        examples: list[Example] = []
        for label in _folders(split_folder):
            folder = posixpath.join(split_folder, label)
            files = _names(folder)
            images = sorted(file for file in files if _suffix(file) in SUFFIXES)
            others.update(_kind(posixpath.join(folder, file)) for file in files if _suffix(file) not in SUFFIXES)
            examples += [(posixpath.join(folder, file), label) for file in images]
            classes.add(label)
        misplaced = sum(_suffix(file) in SUFFIXES for file in _names(split_folder))
        others.update({"images in no class folder": misplaced} if misplaced else {})
        random.Random(split).shuffle(examples)
        splits[split] = examples
    left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
    splits = {split: examples for split, examples in splits.items() if examples}
    if not splits:
        raise ValueError(
            f"Images must be in {root}/SPLIT/CLASS, in files *{', *'.join(SUFFIXES)}. Received: name={name!r}, where "
            "there are none" + (f"; left out: {left_out}" if left_out else "")
        )
    _check_classes(name, splits, sorted(classes), left_out)
    if left_out:
        _log_once(f"Not read as images of {name!r}: {left_out}. Images are files *{', *'.join(SUFFIXES)}.")
    return ImageFolder(name, sorted(classes), splits)


def _check_classes(name: str, splits: dict[str, list[Example]], classes: Sequence[str], left_out: str) -> None:
    for split, examples in splits.items():
        missing = sorted(set(classes) - {label for _, label in examples})
        if missing:
            raise ValueError(
                f"Each split must have images of each class. Received: name={name!r}, where the split {split!r} has "
                f"none of the class {missing[0]!r}"
                + (f" and {len(missing) - 1} others" if missing[1:] else "")
                + (f"; left out: {left_out}" if left_out else "")
            )


def _names(folder: str) -> list[str]:
    """Returns the entries of a folder, without hidden ones and those of operating systems."""
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]  # in buckets, names of folders end with a slash
    return [name for name in names if not name.startswith(".") and name not in (*SYSTEM, *SYSTEM_FILES)]


def _folders(folder: str) -> list[str]:
    return sorted(name for name in _names(folder) if tf.io.gfile.isdir(posixpath.join(folder, name)))


def _suffix(name: str) -> str:
    return pathlib.PurePosixPath(name).suffix.lower()


def _kind(path: str) -> str:
    """Returns the kind under which a left-out file is counted."""
    if tf.io.gfile.isdir(path):
        return "folders in class folders"
    return f"*{_suffix(path)}" if _suffix(path) else "files without a suffix"


@functools.lru_cache(maxsize=16)
def _bad_images(paths: tuple[str, ...], name: str, split: str) -> frozenset[str]:
    """Returns and logs the files that cannot be read as images."""
    numbers = tf.data.Dataset.range(len(paths))
    files = tf.data.Dataset.zip(numbers, tf.data.Dataset.from_tensor_slices(tf.constant(paths, tf.string)))

    def read(number: tf.Tensor, path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return number, tf.reduce_max(decode_file(path))  # tf.data does not compute unused values

    readable = files.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False).ignore_errors()
    bad = sorted(set(range(len(paths))) - {int(number) for number, _ in readable.as_numpy_iterator()})
    if bad:
        described = [f"{paths[number]} ({what_is_wrong(paths[number])})" for number in bad[:NAMED]]
        more = f" and {len(bad) - NAMED} others" if len(bad) > NAMED else ""
        _log_once(
            f"Skipped {len(bad)} of {len(paths)} images in {split!r} of {name!r} that cannot be read: "
            f"{', '.join(described)}{more}"
        )
    return frozenset(paths[number] for number in bad)


@functools.cache
def _log_once(text: str) -> None:
    """Logs a warning once per process, because a run opens its data several times."""
    logging.warning("%s", text)

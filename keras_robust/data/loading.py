"""One door to image classification data sets: any that TFDS knows, and the embedded `mnist_small`."""

import contextlib
import dataclasses
import io
import os
import threading
import uuid
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils

from keras_robust.data.mnist_small import MnistSmall

_PREPARING = threading.Lock()  # redirecting standard output is not safe between threads


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known of a split without reading it.

    Attributes:
        name: name of the data set, as it was asked for.
        split: split in TFDS syntax, as it was asked for.
        num_examples: number of examples in the split, at least 1.
        num_classes: number of classes.
        image_shape: (height, width, channels).
    """

    name: str
    split: str
    num_examples: int
    num_classes: int
    image_shape: tuple[int, int, int]


def load_split(
    name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None, download: bool = False
) -> tf.data.Dataset:
    """Loads a split in the order of its files, the same in every run.

    Args:
        name: a TFDS image classification data set, such as "mnist" or "cifar10", or "mnist_small", which is embedded
            in the package and prepared under `data_dir` on first use.
        split: TFDS split syntax, such as "train[:95%]" or "test[:1000]".
        data_dir: folder of prepared data sets; None means TFDS's default, usually ~/tensorflow_datasets.
        download: whether to download and prepare a data set that is not under `data_dir`.

    Returns:
        Unbatched, uncached pairs of image: (height, width, channels) uint8 in [0, 255], and label: () int64.

    Raises:
        ValueError: if the data set is unknown, not prepared, or not one of uint8 images with one label each, or if the
            split is unknown or empty.
    """
    builder = _prepared_builder(name, data_dir, download)
    _check_features(name, builder)
    return _read(name, builder, split)


def describe(
    name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None, download: bool = False
) -> DatasetInfo:
    """Describes a split; arguments as of `load_split`.

    Raises:
        ValueError: as `load_split`, and if the images differ in size.
    """
    builder = _prepared_builder(name, data_dir, download)
    image, label = _check_features(name, builder)
    shape = tuple(image.shape)
    if len(shape) != 3 or None in shape:
        raise ValueError(
            f"Expected images of one size; resize those of load_split instead. Received: name={name!r} with images of "
            f"shape {shape}"
        )
    return DatasetInfo(name, split, len(_read(name, builder, split)), label.num_classes, shape)


def _prepared_builder(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> tfds.core.DatasetBuilder:
    builder = _find_builder(name, data_dir)
    if builder.data_path.exists():
        return builder
    if builder.name == MnistSmall.name:
        with _PREPARING:
            if not builder.data_path.exists():
                _prepare_embedded(builder)
        return _find_builder(name, data_dir)
    if download:
        builder.download_and_prepare()
    return builder  # perhaps not prepared: see _read


def _find_builder(name: str, data_dir: str | os.PathLike[str] | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except (ValueError, AssertionError) as error:  # AssertionError: an unknown version
        # TFDS appends the names of all its data sets, more than a thousand lines.
        reason = _first_line(str(error))
        raise ValueError(
            f"Expected the name of a TFDS data set, such as 'cifar10', or {MnistSmall.name!r}. Received: name={name!r} "
            f"({reason})"
        ) from None


def _prepare_embedded(builder: tfds.core.DatasetBuilder) -> None:
    """Prepares `mnist_small` under a name of its own and moves it into place, so that processes may race.

    TFDS's own temporary name comes from Python's global generator: two processes with the same seed would share it.
    """
    target = builder.data_path
    root = builder.data_dir_root
    staging = root / f".{builder.name}_{uuid.uuid4().hex}"
    try:
        with _quiet():
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            MnistSmall(data_dir=staging).download_and_prepare(download_config=config)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            (staging / target.relative_to(root)).rename(target)
        except OSError:
            if not builder.data_path.exists():  # otherwise another process was faster
                raise
    finally:
        staging.rmtree(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's progress bars and announcements off the terminal, and restores the bars as they were."""
    bars_were_on = getattr(tqdm_utils, "_active", True)
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(bars_were_on)


def _check_features(
    name: str, builder: tfds.core.DatasetBuilder
) -> tuple[tfds.features.Image, tfds.features.ClassLabel]:
    """The image and label features, if the data set is one of uint8 images with one label each."""
    keys = builder.info.supervised_keys
    features = [builder.info.features[key] for key in keys] if isinstance(keys, tuple) else []
    match features:
        case [tfds.features.Image() as image, tfds.features.ClassLabel() as label] if image.np_dtype == np.uint8:
            return image, label
    raise ValueError(
        f"Expected a data set for image classification: uint8 images, one class label each. Received: name={name!r} "
        f"with supervised_keys={keys} and features {builder.info.features}"
    )


def _read(name: str, builder: tfds.core.DatasetBuilder, split: str) -> tf.data.Dataset:
    """The split as (image, label), of known length; that the data can be found is TFDS's judgement, mocks included."""
    options = tf.data.Options()
    options.deterministic = True
    config = tfds.ReadConfig(options=options, try_autocache=False)
    try:
        examples = builder.as_dataset(split=split, shuffle_files=False, as_supervised=True, read_config=config)
    except AssertionError:
        raise ValueError(_how_to_prepare(name, builder)) from None
    except (KeyError, ValueError) as error:
        raise ValueError(_available_splits(name, builder, split, str(error))) from None
    if examples.cardinality() < 1:  # a slice that ends before it starts has a negative cardinality
        raise ValueError(_available_splits(name, builder, split, "the slice is empty"))
    return examples


def _how_to_prepare(name: str, builder: tfds.core.DatasetBuilder) -> str:
    root = str(builder.data_dir_root)
    return (
        f"The data set {name!r} is not prepared under data_dir={root!r}. Expected one of: download it (flag "
        f"--download, argument download=True); prepare it with `tfds build {name} --data_dir={root}`; or use "
        f"{MnistSmall.name!r}, which is embedded. Received: name={name!r}, data_dir={root!r}, download=False"
    )


def _available_splits(name: str, builder: tfds.core.DatasetBuilder, split: str, reason: str) -> str:
    available = {key: int(info.num_examples) for key, info in sorted(builder.info.splits.items())}
    return (
        f"Expected a split of {name!r}, or a slice of one such as 'train[:95%]', with at least one example; available "
        f"splits and their sizes: {available}. Received: split={split!r} ({_first_line(reason)})"
    )


def _first_line(text: str) -> str:
    return text.partition("\n")[0].rstrip(".")

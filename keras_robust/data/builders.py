"""TFDS builders of data sets, found by name and prepared, from which `loading` reads."""

import contextlib
import io
import os
import threading
import uuid
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils

from keras_robust.core.seeds import Tensor
from keras_robust.data.mnist_small import MnistSmall

_PREPARING = threading.Lock()  # redirecting standard output is not safe between threads


def prepared_builder(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> tfds.core.DatasetBuilder:
    """Returns the builder of a data set. It is prepared if the data exist, are embedded, or may be downloaded.

    Args:
        name: see `loading.load_split`.
        data_dir: see `loading.load_split`.
        download: see `loading.load_split`.

    Raises:
        ValueError: if there is no such data set, or its data must be downloaded by hand.
    """
    if not isinstance(name, str):
        raise ValueError(_unknown(name, f"{type(name).__name__}, not str"))
    builder = _find_builder(name, data_dir)
    if builder.data_path.exists():
        return builder
    if builder.name == MnistSmall.name:
        with _PREPARING:
            if not builder.data_path.exists():
                _prepare_embedded(builder)
        return _find_builder(name, data_dir)
    if download:
        try:
            builder.download_and_prepare()
        except AssertionError as error:  # data that must be downloaded by hand are missing
            raise ValueError(f"{' '.join(str(error).split())} Received: name={name!r}, download=True") from None
    return builder  # perhaps not prepared: reading it raises the error


def _find_builder(name: str, data_dir: str | os.PathLike[str] | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except (ValueError, AssertionError) as error:  # AssertionError: an unknown version
        # TFDS appends the names of all its data sets, in more than a thousand lines.
        raise ValueError(_unknown(name, _first_line(str(error)))) from None


def _unknown(name: object, reason: str) -> str:
    return (
        f"name must be that of a TFDS data set, such as 'cifar10', or {MnistSmall.name!r}, or folder:PATH. "
        f"Received: name={name!r} ({reason})"
    )


def _prepare_embedded(builder: tfds.core.DatasetBuilder) -> None:
    """Prepares `mnist_small` under a unique name and moves it into place, so that processes may race.

    TFDS's own temporary name comes from Python's global generator. Two processes with the same seed would share it.
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
    """Hides TFDS's progress bars and announcements, and restores the setting of the bars afterwards."""
    bars_were_on = getattr(tqdm_utils, "_active", True)
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(bars_were_on)


def image_and_label(
    name: str, builder: tfds.core.DatasetBuilder
) -> tuple[tfds.features.Image, tfds.features.ClassLabel]:
    """Returns the image and label features.

    Raises:
        ValueError: if the data set does not consist of uint8 images with one label each.
    """
    keys = builder.info.supervised_keys
    features = [builder.info.features[key] for key in keys] if isinstance(keys, tuple) else []
    match features:
        case [tfds.features.Image() as image, tfds.features.ClassLabel() as label] if image.np_dtype == np.uint8:
            return image, label
    raise ValueError(
        f"The data set must be one for image classification: uint8 images, one class label each. "
        f"Received: name={name!r} with supervised_keys={keys} and features {builder.info.features}"
    )


def encoded_images(builder: tfds.core.DatasetBuilder, split: str, seed: Tensor | None) -> tf.data.Dataset:
    """Returns pairs of an encoded image and a label, of known length: `source.Source.records`.

    With a seed, the order of the files is drawn from it unless the data set has an order of its own. TFDS decides
    whether the data exist, also under its mocks.
    """
    options = tf.data.Options()
    options.deterministic = True
    shuffle_files = seed is not None and not builder.info.disable_shuffling
    return builder.as_dataset(
        split=split,
        shuffle_files=shuffle_files,
        decoders={builder.info.supervised_keys[0]: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(options=options, try_autocache=False, shuffle_seed=seed),
        as_supervised=True,
    )


def how_to_prepare(name: str, builder: tfds.core.DatasetBuilder) -> str:
    """Returns the message for a data set that is not prepared."""
    root = str(builder.data_dir_root)
    return (
        f"The data set {name!r} is not prepared under data_dir={root!r}. Download it (flag --download, argument "
        f"download=True), prepare it with `tfds build {name} --data_dir={root}`, or use "
        f"{MnistSmall.name!r}, which is embedded. Received: name={name!r}, data_dir={root!r}, download=False"
    )


def available_splits(name: str, sizes: Mapping[str, int], split: str, reason: str) -> str:
    """Returns the message for a missing or empty split. `sizes` are the existing splits, `reason` comes from TFDS."""
    available = dict(sorted(sizes.items()))
    return (
        f"split must be a split of {name!r}, or a slice such as 'train[:95%]', with at least one example. Available "
        f"splits and their sizes: {available}. Received: split={split!r} ({_first_line(reason)})"
    )


def _first_line(text: str) -> str:
    return text.partition("\n")[0].rstrip(".")

"""Splits load in a fixed order, and every wrong request says what was received and what would do."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_robust import data


class _TinyDataset(tfds.core.GeneratorBasedBuilder):
    """Two examples, for features that the library does not take."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURES: ClassVar[dict[str, Any]]
    EXAMPLE: ClassVar[dict[str, Any]]

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self.FEATURES)
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=tuple(self.FEATURES))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from ((key, self.EXAMPLE) for key in range(2))


class FloatImages(_TinyDataset):
    """Images that are not uint8."""

    FEATURES: ClassVar = {
        "image": tfds.features.Image(shape=(2, 2, 1), dtype=np.float32),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    EXAMPLE: ClassVar = {"image": np.zeros((2, 2, 1), np.float32), "label": 1}


class ManyLabels(_TinyDataset):
    """Images with several labels each."""

    FEATURES: ClassVar = {
        "image": tfds.features.Image(shape=(2, 2, 1)),
        "labels": tfds.features.Sequence(tfds.features.ClassLabel(num_classes=2)),
    }
    EXAMPLE: ClassVar = {"image": np.zeros((2, 2, 1), np.uint8), "labels": [0, 1]}


class AnySize(_TinyDataset):
    """Images of any size."""

    FEATURES: ClassVar = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
    EXAMPLE: ClassVar = {"image": np.zeros((3, 5, 3), np.uint8), "label": 1}


def prepare(builder_class: type[_TinyDataset], data_dir: pathlib.Path) -> None:
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder_class(data_dir=data_dir).download_and_prepare(download_config=config)


@pytest.mark.parametrize(
    ("split", "num_examples"),
    [("train", 10_000), ("train[:95%]", 9_500), ("test[:1000]", 1_000), ("train+test", 12_000)],
)
def test_describe(split: str, num_examples: int, data_dir: pathlib.Path):
    info = data.describe("mnist_small", split, data_dir=data_dir)
    assert info == data.DatasetInfo("mnist_small", split, num_examples, 10, (28, 28, 1))
    assert len(data.load_split("mnist_small", split, data_dir=data_dir)) == num_examples


def test_info_is_immutable(data_dir: pathlib.Path):
    info = data.describe("mnist_small", "test", data_dir=data_dir)
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.num_examples = 1  # type: ignore[misc]


def test_order_is_fixed_and_slices_follow_it(data_dir: pathlib.Path):
    whole = list(data.load_split("mnist_small", "test", data_dir=data_dir).as_numpy_iterator())
    again = list(data.load_split("mnist_small", "test", data_dir=str(data_dir)).as_numpy_iterator())
    part = list(data.load_split("mnist_small", "test[500:1500]", data_dir=data_dir).as_numpy_iterator())
    tf.nest.map_structure(np.testing.assert_array_equal, again, whole)
    tf.nest.map_structure(np.testing.assert_array_equal, part, whole[500:1500])


def test_element_spec(data_dir: pathlib.Path):
    image, label = data.load_split("mnist_small", "test", data_dir=data_dir).element_spec
    assert (image.shape, image.dtype) == ((28, 28, 1), tf.uint8)
    assert (label.shape, label.dtype) == ((), tf.int64)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("nosuch", "train", r"TFDS data set.*'mnist_small'.*name='nosuch' \(Dataset nosuch not found\)$"),
        ("cifar-10", "train", r"Received: name='cifar-10'"),
        (None, "train", r"folder:PATH. Received: name=None \(NoneType, not str\)$"),
        ("", "train", r"Received: name=''"),
        ("mnist:9.9.9", "train", r"Received: name='mnist:9.9.9'"),
        ("mnist_small", "validation", r"'test': 2000, 'train': 10000.*Received: split='validation'"),
        ("mnist_small", "train[", r"'train': 10000.*Received: split='train\['"),
        ("mnist_small", "", r"'train': 10000.*Received: split=''"),
        ("mnist_small", "train[:0%]", r"'train': 10000.*split='train\[:0%\]'"),
        ("mnist_small", "train[5:3]", r"at least one example.*split='train\[5:3\]' \(the slice is empty\)"),
        ("mnist_small", "train[20000:]", r"'train': 10000.*split='train\[20000:\]'"),
    ],
)
@pytest.mark.parametrize("function", [data.load_split, data.describe])
def test_wrong_requests(function: Any, name: str, split: str, message: str, data_dir: pathlib.Path):
    with pytest.raises(ValueError, match=message):
        function(name, split, data_dir=data_dir)


def test_unprepared_data_set_says_how_to_get_it(tmp_path: pathlib.Path):
    with pytest.raises(ValueError, match="'cifar10' is not prepared") as raised:
        data.load_split("cifar10", "train", data_dir=tmp_path)
    for hint in (
        f"data_dir='{tmp_path}'",
        "--download",
        f"`tfds build cifar10 --data_dir={tmp_path}`",
        "'mnist_small'",
    ):
        assert hint in str(raised.value)


def test_download_prepares(tmp_path: pathlib.Path):
    class Downloadable(AnySize):
        """A data set with nothing to download."""

    loaded = data.load_split("downloadable", "train", data_dir=tmp_path, download=True)
    assert [image.shape for image, _ in loaded.as_numpy_iterator()] == [(3, 5, 3)] * 2
    assert (tmp_path / Downloadable.name).is_dir()


@pytest.mark.parametrize(("builder_class", "word"), [(FloatImages, "float32"), (ManyLabels, "'image', 'labels'")])
def test_other_features(builder_class: type[_TinyDataset], word: str, tmp_path: pathlib.Path):
    prepare(builder_class, tmp_path)
    with pytest.raises(ValueError, match=f"(?s)uint8 images.*Received: name='{builder_class.name}'.*{word}"):
        data.load_split(builder_class.name, "train", data_dir=tmp_path)


def test_images_of_any_size_load_but_do_not_batch(tmp_path: pathlib.Path):
    prepare(AnySize, tmp_path)
    assert len(data.load_split("any_size", "train", data_dir=tmp_path)) == 2
    with pytest.raises(ValueError, match=r"images that differ in size. Received: image_size=0 for name='any_size'"):
        data.evaluation_batches("any_size", "train", batch_size=2, data_dir=tmp_path)

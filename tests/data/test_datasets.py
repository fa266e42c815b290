"""The data sets of the papers, with TFDS's own features and made-up examples: nothing is downloaded."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_robust import data

ONE_SIZE = {
    "mnist": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),  # fine labels: the coarse ones are 20
    "svhn_cropped": ((32, 32, 3), 10),
    "imagenet_resized/64x64": ((64, 64, 3), 1000),
}
ANY_SIZE = {
    "imagenet2012": (1000, 224, "inception_crop_and_colors"),
    "imagenette/320px-v2": (10, 299, None),
}


def assert_batches(batches: list[tuple[np.ndarray, np.ndarray]], shape: tuple[int, ...], classes: int) -> None:
    for images, labels in batches:
        assert images.shape == (len(labels), *shape)
        assert images.dtype == np.float32
        assert 0 <= images.min() < images.max() <= 1
        assert labels.dtype == np.int64
        assert 0 <= labels.min() <= labels.max() < classes


@pytest.mark.parametrize("name", ONE_SIZE)
def test_images_of_one_size(name: str, tmp_path: pathlib.Path):
    shape, classes = ONE_SIZE[name]
    options: dict[str, Any] = {"batch_size": 4, "data_dir": tmp_path, "download": name == "cifar100"}
    with tfds.testing.mock_data(num_examples=9):
        info = data.describe(name, "train", data_dir=tmp_path)
        assert info == data.DatasetInfo(name, "train", 9, classes, shape)
        train = list(data.training_batches(name, "train", seed=0, **options).take(3).as_numpy_iterator())
        assert [len(labels) for _, labels in train] == [4, 4, 4]
        test = list(data.evaluation_batches(name, "train", **options).as_numpy_iterator())
        assert [len(labels) for _, labels in test] == [4, 4, 1]
        assert_batches(train + test, shape, classes)


def test_extra_images_of_svhn(tmp_path: pathlib.Path):
    with tfds.testing.mock_data(num_examples=9):
        info = data.describe("svhn_cropped", "train+extra", data_dir=tmp_path)
        assert info.num_classes == 10
        stream = data.training_batches("svhn_cropped", "train+extra", batch_size=4, seed=0, data_dir=tmp_path)
        assert next(stream.as_numpy_iterator())[0].shape == (4, 32, 32, 3)


def test_all_of_svhn_is_kept_in_memory_and_imagenet_is_not():
    """73,257 and 531,131 training images of SVHN; 1,281,167 of ImageNet."""
    assert (73_257 + 531_131) * 32 * 32 * 3 <= data.MAX_CACHE_BYTES < 1_281_167 * 64 * 64 * 3


@pytest.mark.parametrize("name", ANY_SIZE)
def test_images_of_any_size(name: str, tmp_path: pathlib.Path):
    classes, size, augmentation = ANY_SIZE[name]
    options: dict[str, Any] = {"batch_size": 4, "data_dir": tmp_path}
    with tfds.testing.mock_data(num_examples=9):
        assert data.describe(name, "train", data_dir=tmp_path).image_shape == (None, None, 3)
        stream = data.training_batches(name, "train", seed=0, image_size=size, augmentation=augmentation, **options)
        assert_batches(list(stream.take(3).as_numpy_iterator()), (size, size, 3), classes)
        test = data.evaluation_batches(name, "train", image_size=size, **options)
        assert_batches(list(test.as_numpy_iterator()), (size, size, 3), classes)
        with pytest.raises(ValueError, match=rf"image size.*image_size=0 for name='{name}'.*\(None, None, 3\)"):
            data.evaluation_batches(name, "train", **options)


def test_what_is_to_be_downloaded_by_hand_is_said_in_one_line(tmp_path: pathlib.Path):
    with pytest.raises(
        ValueError, match=r"ILSVRC2012_img_train.tar.*Received: name='imagenet2012', download=True"
    ) as e:
        data.describe("imagenet2012", "train", data_dir=tmp_path, download=True)
    assert "\n" not in str(e.value)


@pytest.fixture
def cifar10_metadata(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder in which `cifar10` looks prepared with 20 examples; `mock_data` makes the examples up."""
    builder = tfds.builder("cifar10", data_dir=tmp_path)
    template = tfds.core.ShardedFileTemplate(
        dataset_name="cifar10", split="train", filetype_suffix="tfrecord", data_dir=builder.data_path
    )
    split = tfds.core.SplitInfo(name="train", shard_lengths=[20], num_bytes=1, filename_template=template)
    builder.info.set_splits(tfds.core.splits.SplitDict([split]))
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)
    return tmp_path


def test_metadata_of_files(cifar10_metadata: pathlib.Path):
    with tfds.testing.mock_data(num_examples=20, data_dir=cifar10_metadata):
        assert data.describe("cifar10", "train", data_dir=cifar10_metadata).image_shape == (32, 32, 3)
        stream = data.training_batches(
            "cifar10", "train", batch_size=6, seed=0, one_hot=True, data_dir=cifar10_metadata
        )
        for images, labels in stream.take(7).as_numpy_iterator():
            assert images.shape == (6, 32, 32, 3)
            assert 0 <= images.min() < images.max() <= 1
            np.testing.assert_array_equal(labels.sum(axis=1), np.ones(6))
        evaluation = data.evaluation_batches("cifar10", "train", batch_size=6, data_dir=cifar10_metadata)
        assert [len(labels) for _, labels in evaluation.as_numpy_iterator()] == [6, 6, 6, 2]

"""Splits in the order of the published files, whatever that of TFDS, which shuffles them when it prepares them."""

import gzip
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_robust import data
from keras_robust.data.mnist_small.mnist_small import DIGITS_FILE
from keras_robust.evaluation import dataset_for

SIZES = {"train": 40, "test": 23}
Prepare = Callable[..., pathlib.Path]


@pytest.fixture
def prepare(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Lets TFDS's own writer prepare a data set of few examples; the first pixel of each is its official place."""

    def write(name: str, shards: int = 3, key: Callable[[int], int] = int, **features: Callable[[str, int], Any]):
        builder = tfds.builder(name, data_dir=tmp_path)
        shape = builder.info.features["image"].shape

        def examples(split: str):
            for place in range(SIZES[split]):
                others = {feature: make(split, place) for feature, make in features.items()}
                yield key(place), {"image": np.full(shape, place, np.uint8), "label": place % 10, **others}

        monkeypatch.setattr(type(builder), "_split_generators", lambda *_: {split: examples(split) for split in SIZES})
        config = tfds.download.DownloadConfig(num_shards=shards, try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
        return tmp_path

    return write


def places(name: str, split: str, data_dir: pathlib.Path, **options: Any) -> list[int]:
    """Which images these are; the labels go with them."""
    examples = [*data.load_split(name, split, data_dir=data_dir, **options).as_numpy_iterator()]
    numbers = [int(image[0, 0, 0]) for image, _ in examples]
    assert [int(label) for _, label in examples] == [number % 10 for number in numbers]
    return numbers


@pytest.mark.parametrize("shards", [1, 3])
def test_the_order_is_found_out_as_tfds_shuffles(shards: int, prepare: Prepare):
    """Also of several files, of which TFDS reads some examples in turn. Slices are of the published order."""
    data_dir = prepare("mnist", shards)
    assert len([*data_dir.glob("mnist/*/mnist-test.tfrecord*")]) == shards
    assert places("mnist", "test", data_dir, order="official") == [*range(23)]
    assert places("mnist", "test[:7]", data_dir, order="official") == [*range(7)]
    assert places("mnist", "train[90%:]+test[3:6]", data_dir, order="official") == [36, 37, 38, 39, 3, 4, 5]
    shuffled = places("mnist", "test", data_dir)
    assert sorted(shuffled) == [*range(23)] != shuffled
    assert places("mnist", "test[:7]", data_dir, order="tfds") == shuffled[:7]


@pytest.mark.parametrize("key", [int, lambda place: 1000 - place], ids=["place", "another key"])
def test_an_id_has_the_last_word(key: Callable[[int], int], prepare: Prepare):
    """Whatever the key by which TFDS shuffled."""
    data_dir = prepare("cifar10", key=key, id=lambda split, place: f"{split}_{place:05d}")
    assert places("cifar10", "train[:30]", data_dir, order="official") == [*range(30)]
    assert places("cifar10", "test[-5:]", data_dir, order="official") == [*range(18, 23)]


@pytest.mark.parametrize("text", ["image_{place}", "{split}_7"], ids=["other ids", "one id for all"])
def test_ids_without_a_place_are_refused(text: str, prepare: Prepare):
    data_dir = prepare("cifar10", id=lambda split, place: text.format(split=split, place=place))
    with pytest.raises(ValueError, match=r"ids such as 'test_00042'.*Received: order='official' for name='cifar10'.*"):
        data.load_split("cifar10", "test", data_dir=data_dir, order="official")


def test_evaluation_in_the_official_order(prepare: Prepare):
    data_dir = prepare("mnist")
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    options: dict[str, Any] = {"batch_size": 5, "data_dir": data_dir, "order": "official"}
    for batches in (
        data.evaluation_batches("mnist", "test[:7]", **options),
        dataset_for(model, "mnist", "test[:7]", **options),
    ):
        images, labels = (np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True))
        np.testing.assert_allclose(images[:, 0, 0, 0] * 255, range(7), atol=1e-4)
        np.testing.assert_array_equal(labels, range(7))
        assert [len(labels) for _, labels in batches] == [5, 2]


@pytest.mark.parametrize("split", ["train", "test"])
def test_embedded_digits_in_the_order_of_the_official_file(split: str, data_dir: pathlib.Path):
    """They are some of its digits, in its order."""
    loaded = [*data.load_split("mnist_small", split, data_dir=data_dir, order="official").as_numpy_iterator()]
    with np.load(DIGITS_FILE) as digits:
        np.testing.assert_array_equal([image[..., 0] for image, _ in loaded], digits[f"{split}_images"])
        np.testing.assert_array_equal([label for _, label in loaded], digits[f"{split}_labels"])


def test_a_folder_has_no_official_order(image_folder: pathlib.Path):
    name = f"folder:{image_folder}"
    with pytest.raises(ValueError, match=rf"needs one of the data sets \['cifar10', .*for name='{name}'"):
        data.evaluation_batches(name, "test", batch_size=2, image_size=8, order="official")


def test_another_data_set_has_none_that_is_known(tmp_path: pathlib.Path):
    with (
        tfds.testing.mock_data(num_examples=9),
        pytest.raises(ValueError, match="order='official' for name='imagenet2012'"),
    ):
        data.load_split("imagenet2012", "validation", data_dir=tmp_path, order="official")


@pytest.mark.parametrize("load", [data.load_split, data.evaluation_batches])
def test_an_unknown_order_is_named(load: Any, data_dir: pathlib.Path):
    options = {} if load is data.load_split else {"batch_size": 2}
    with pytest.raises(ValueError, match=r"\('tfds', 'official'\). Received: order='files'"):
        load("mnist_small", "test", data_dir=data_dir, order="files", **options)


@pytest.mark.shared_data("KERAS_ROBUST_DATA_DIR", "KERAS_ROBUST_MNIST_DIR")
@pytest.mark.parametrize(("split", "prefix"), [("test", "t10k"), ("train", "train")])
def test_mnist_is_that_of_the_official_files(split: str, prefix: str):
    """All 10,000 test and 60,000 training images, bit for bit; in TFDS's order 92 of the first 1,000 are the same."""
    files = [
        pathlib.Path(os.environ["KERAS_ROBUST_MNIST_DIR"], f"{prefix}-{what}-ubyte.gz").read_bytes()
        for what in ("images-idx3", "labels-idx1")
    ]
    images = np.frombuffer(gzip.decompress(files[0]), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    labels = np.frombuffer(gzip.decompress(files[1]), np.uint8, offset=8)
    options: dict[str, Any] = {"data_dir": os.environ["KERAS_ROBUST_DATA_DIR"], "order": "official"}
    loaded = [*data.load_split("mnist", split, **options).as_numpy_iterator()]
    np.testing.assert_array_equal([image for image, _ in loaded], images)
    np.testing.assert_array_equal([label for _, label in loaded], labels)
    part = [image for image, _ in data.load_split("mnist", f"{split}[500:600]", **options).as_numpy_iterator()]
    np.testing.assert_array_equal(part, images[500:600])


@pytest.mark.shared_data("KERAS_ROBUST_DATA_DIR")
def test_cifar10_begins_with_a_cat_and_two_ships():
    options: dict[str, Any] = {"data_dir": os.environ["KERAS_ROBUST_DATA_DIR"], "order": "official"}
    loaded = data.load_split("cifar10", "test[:10]", **options)
    assert [int(label) for _, label in loaded.as_numpy_iterator()] == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]

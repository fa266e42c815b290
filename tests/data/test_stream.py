"""Streams of images that are decoded as they are needed: the same from every step, with nothing decoded twice."""

import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_robust import data

SHARDS, IN_SHARD = 6, 5
Batches = list[tuple[np.ndarray, np.ndarray]]


def batches(count: int, folder: pathlib.Path, **options: Any) -> Batches:
    options = {"batch_size": 5, "seed": 3, "image_size": 12, "augmentation": "inception_crop", **options}
    return list(data.training_batches(f"folder:{folder}", "train", **options).take(count).as_numpy_iterator())


def numbers(images: np.ndarray) -> list[int]:
    """Which images of the folder they are: blue is ten times the number."""
    return [int(number) for number in np.round(images[..., 2].mean(axis=(1, 2)) * 25.5)]


def assert_same(actual: Any, expected: Any) -> None:
    tf.nest.map_structure(np.testing.assert_array_equal, actual, expected)


def test_random_windows_resume(image_folder: pathlib.Path):
    """Twenty-four images make four batches of five: six is the third step of the second epoch."""
    assert_same(batches(3, image_folder, start_step=6), batches(9, image_folder)[6:])


def test_images_of_one_size_are_cut_at_random_at_their_own_size(data_dir: pathlib.Path):
    options: dict[str, Any] = {"batch_size": 8, "seed": 0, "data_dir": data_dir}
    (cut, labels), (whole, same_labels) = (
        next(data.training_batches("mnist_small", "train[:50]", augmentation=name, **options).as_numpy_iterator())
        for name in ("half_area_crop", None)
    )
    np.testing.assert_array_equal(labels, same_labels)
    assert cut.shape == whole.shape == (8, 28, 28, 1)
    assert all(np.any(one != other) for one, other in zip(cut, whole, strict=True))


def test_epochs_are_permutations_cut_anew(image_folder: pathlib.Path):
    stream = batches(9, image_folder, batch_size=8)
    read = [numbers(images) for images, _ in stream]
    assert [[number % 3 for number in some] for some in read] == [labels.tolist() for _, labels in stream]
    epochs = [[number for some in read[first : first + 3] for number in some] for first in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    cuts = {image.tobytes() for images, _ in stream for image in images}
    assert len(cuts) == 3 * 24
    others = {image.tobytes() for images, _ in batches(3, image_folder, batch_size=8, seed=4) for image in images}
    assert not cuts & others


def test_without_an_augmentation_images_are_as_in_an_evaluation(image_folder: pathlib.Path):
    evaluation = data.evaluation_batches(f"folder:{image_folder}", "train", batch_size=24, image_size=12)
    evaluated = {image.tobytes() for image in next(evaluation.as_numpy_iterator())[0]}
    kept, read = (batches(3, image_folder, batch_size=8, augmentation=None, cache=cache) for cache in (True, False))
    assert_same(kept, read)
    assert {image.tobytes() for images, _ in read for image in images} == evaluated


def test_skipped_images_are_not_decoded(image_folder: pathlib.Path, tmp_path: pathlib.Path):
    """What the first three batches of an epoch held is no image any more; the next one does not notice."""
    options = {"augmentation": None, "cache": False}
    order = [numbers(images) for images, _ in batches(4, image_folder, **options)]
    lost = {number for some in order[:3] for number in some}
    folder = pathlib.Path(shutil.copytree(image_folder, tmp_path / "images"))
    for path in (folder / "train").rglob("*.*"):
        if int(path.stem) in lost:
            path.write_bytes(b"no image")
    # One batch alone: the next epoch would read them.
    assert numbers(batches(1, folder, start_step=3, **options)[0][0]) == order[3]
    with pytest.raises(tf.errors.InvalidArgumentError):
        batches(1, folder, start_step=2, **options)


class SeveralFiles(tfds.core.GeneratorBasedBuilder):
    """Images of one colour each, in several files."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=(2, 2, 3)), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for key in range(SHARDS * IN_SHARD):
            yield key, {"image": np.full((2, 2, 3), key, np.uint8), "label": key % 2}


@pytest.fixture(scope="module")
def several_files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder in which `several_files` is prepared."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=SHARDS)
    SeveralFiles(data_dir=folder).download_and_prepare(download_config=config)
    return folder


def keys(count: int, folder: pathlib.Path, **options: Any) -> list[int]:
    """The first keys of the stream."""
    options = {"batch_size": 1, "seed": 3, "data_dir": folder, **options}
    stream = data.training_batches("several_files", "train", **options).take(count)
    return [round(float(images[0, 0, 0, 0]) * 255) for images, _ in stream.as_numpy_iterator()]


def test_the_order_of_the_files_is_drawn_where_the_buffer_is_small(several_files: pathlib.Path):
    """With a buffer of one example the five of a file stay together; the order of the files differs between epochs."""
    evaluation = data.evaluation_batches("several_files", "train", batch_size=30, data_dir=several_files)
    in_order = np.round(next(evaluation.as_numpy_iterator())[0][:, 0, 0, 0] * 255).astype(int).tolist()
    files = [in_order[first : first + IN_SHARD] for first in range(0, 30, IN_SHARD)]
    drawn = keys(90, several_files, shuffle_buffer=1, cache=False)
    orders = []
    for epoch in (drawn[:30], drawn[30:60], drawn[60:]):
        parts = [epoch[first : first + IN_SHARD] for first in range(0, 30, IN_SHARD)]
        assert sorted(parts) == sorted(files)
        orders.append(str(parts))
    assert len({*orders, str(files)}) == 4
    assert keys(20, several_files, shuffle_buffer=1, cache=False, start_step=41) == drawn[41:61]
    assert keys(30, several_files, shuffle_buffer=1, cache=True) == in_order


def test_buffers(several_files: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """Where all examples are in the buffer there is no order of files to be drawn; encoded images have a limit."""
    kept = keys(60, several_files, cache=True)
    assert keys(60, several_files, cache=False) == kept
    monkeypatch.setattr("keras_robust.data.pipeline.MAX_SHUFFLE_BUFFER", 4)
    assert keys(60, several_files, cache=True) == kept
    limited = keys(60, several_files, cache=False)
    assert limited != kept
    assert limited == keys(60, several_files, cache=False, shuffle_buffer=4)
    assert sorted(limited[:30]) == list(range(30))

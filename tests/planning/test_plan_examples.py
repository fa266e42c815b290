"""Sizes of splits, without data."""

import pytest
import tensorflow_datasets as tfds

from keras_robust.data import load_split
from keras_robust.planning.examples import SIZES, count_examples


@pytest.mark.parametrize(
    ("name", "split", "count"),
    [
        ("mnist", "train[:59000]", 59_000),
        ("mnist", "train[59000:]", 1_000),
        ("cifar10", "train[:95%]", 47_500),
        ("cifar10", "train[:10%]+test", 15_000),
        ("svhn_cropped", "train[-100:]", 100),
        ("imagenet2012", "train", 1_281_167),
    ],
)
def test_slices_of_known_data_sets(name, split, count):
    assert count_examples(name, split) == count


@pytest.mark.slow
def test_the_embedded_digits_have_the_size_that_is_known(tmp_path):
    for split, size in SIZES["mnist_small"].items():
        assert len(load_split("mnist_small", split, data_dir=tmp_path)) == size


def test_sizes_of_what_tfds_has_prepared(monkeypatch):
    class Builder:
        info = tfds.core.DatasetInfo

    info = tfds.core.SplitInfo(name="train", shard_lengths=[7, 3], num_bytes=0, filename_template=None)
    Builder.info.splits = {"train": info}
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Builder)
    assert count_examples("mine", "train[2:]") == 8


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("nowhere", "train", "--examples=N .* Received: dataset='nowhere'"),
        ("mnist", "validation", "Received: split='validation'"),
        ("mnist", "train[", r"Received: split='train\['"),
        ("mnist", "train[:0]", r"Received: split='train\[:0\]'"),
    ],
)
def test_what_is_not_known_is_named(name, split, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        count_examples(name, split, data_dir=tmp_path)

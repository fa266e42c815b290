"""Sizes of splits, without data."""

import pytest

from keras_robust.data import load_split
from keras_robust.tools.planning.plan import SIZES, count_examples

pytestmark = pytest.mark.graph


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


def test_the_size_of_a_folder(tmp_path):
    for label in ("cat", "dog"):
        folder = tmp_path / "train" / label
        folder.mkdir(parents=True)
        for number in range(5):
            (folder / f"{number}.png").write_bytes(b"")  # nothing is decoded
    assert count_examples(f"folder:{tmp_path}", "train") == 10
    assert count_examples(f"folder:{tmp_path}", "train[2:]") == 8


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

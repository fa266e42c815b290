"""The embedded digits are real MNIST digits, in the official proportions, and small."""

import collections
import gzip
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_robust import data
from keras_robust.data import builders
from keras_robust.data.mnist_small import make_digits
from keras_robust.data.mnist_small.mnist_small import DIGITS_FILE

OFFICIAL_FREQUENCIES = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}
SIZES = {"train": 10_000, "test": 2_000}
SPLITS = pytest.mark.parametrize("split", ["train", "test"])


def read_all(name: str, split: str, data_dir: str | pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*data.load_split(name, split, data_dir=data_dir).as_numpy_iterator(), strict=True)
    return np.stack(images), np.stack(labels)


def test_file_is_at_most_three_megabytes():
    assert DIGITS_FILE.stat().st_size <= 3_000_000


@SPLITS
def test_arrays_of_the_file(split: str):
    with np.load(DIGITS_FILE) as digits:
        images, labels, indices = (digits[f"{split}_{part}"] for part in ("images", "labels", "indices"))
    assert images.shape == (SIZES[split], 28, 28)
    assert images.dtype == labels.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    assert np.all(np.diff(indices) > 0)
    assert indices[0] >= 0
    assert indices[-1] < sum(OFFICIAL_FREQUENCIES[split])


@pytest.mark.graph
@SPLITS
def test_classes_have_the_official_proportions(split: str, data_dir: pathlib.Path):
    """Each count is the exact share rounded down, plus one for the classes with the largest remainders."""
    _, labels = read_all("mnist_small", split, data_dir)
    exact = np.array(OFFICIAL_FREQUENCIES[split]) * SIZES[split] / sum(OFFICIAL_FREQUENCIES[split])
    expected = np.floor(exact).astype(int)
    missing = SIZES[split] - expected.sum()
    expected[np.argsort(-(exact - expected), kind="stable")[:missing]] += 1
    np.testing.assert_array_equal(np.bincount(labels, minlength=10), expected)


@SPLITS
def test_builder_yields_the_digits_of_the_file(split: str, data_dir: pathlib.Path):
    images, labels = read_all("mnist_small", split, data_dir)
    assert images.shape == (SIZES[split], 28, 28, 1)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    with np.load(DIGITS_FILE) as digits:
        expected = zip(digits[f"{split}_images"], digits[f"{split}_labels"], strict=True)
        expected_pairs = collections.Counter((image.tobytes(), int(label)) for image, label in expected)
    pairs = zip(images, labels, strict=True)
    assert collections.Counter((image.tobytes(), int(label)) for image, label in pairs) == expected_pairs


def test_builder_matches_that_of_mnist(data_dir: pathlib.Path):
    small, full = tfds.builder("mnist_small", data_dir=data_dir), tfds.builder("mnist", data_dir=data_dir)
    assert str(small.version) == "1.0.0"
    assert small.info.supervised_keys == full.info.supervised_keys
    assert str(small.info.features) == str(full.info.features)


def test_preparing_is_quiet_and_leaves_only_the_data_set(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]):
    data.load_split("mnist_small", "test", data_dir=tmp_path)
    out, err = capfd.readouterr()
    assert not out
    assert "Generating" not in err
    assert "WARNING" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["mnist_small"]


@pytest.mark.parametrize("bars_on", [True, False])
def test_preparing_leaves_progress_bars_as_they_were(tmp_path: pathlib.Path, bars_on: bool):
    tfds.display_progress_bar(bars_on)
    try:
        data.load_split("mnist_small", "test", data_dir=tmp_path)
        assert builders.tqdm_utils._active is bars_on
    finally:
        tfds.display_progress_bar(True)


def test_process_that_loses_the_race_uses_the_winners_files(data_dir: pathlib.Path):
    builder = tfds.builder("mnist_small", data_dir=data_dir)
    builders._prepare_embedded(builder)
    assert [path.name for path in data_dir.iterdir()] == ["mnist_small"]
    assert data.describe("mnist_small", "test", data_dir=data_dir).num_examples == 2_000


def test_failure_to_move_is_not_hidden(tmp_path: pathlib.Path):
    (tmp_path / "mnist_small").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="mnist_small"):
        data.load_split("mnist_small", "test", data_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mnist_small"]


@pytest.mark.slow
def test_processes_with_the_same_seed_prepare_at_once(tmp_path: pathlib.Path):
    program = (
        "import random, sys; from keras_robust import data; random.seed(0); "
        "print(len(list(data.load_split('mnist_small', 'train', data_dir=sys.argv[1]))))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == ["10000\n"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["mnist_small"]


@pytest.mark.shared_data("KERAS_ROBUST_DATA_DIR")
@SPLITS
def test_embedded_digits_are_official(split: str, data_dir: pathlib.Path):
    images, labels = read_all("mnist", split, os.environ["KERAS_ROBUST_DATA_DIR"])
    np.testing.assert_array_equal(np.bincount(labels), OFFICIAL_FREQUENCIES[split])
    official = collections.Counter((x.tobytes(), int(y)) for x, y in zip(images, labels, strict=True))
    embedded = collections.Counter(
        (x.tobytes(), int(y)) for x, y in zip(*read_all("mnist_small", split, data_dir), strict=True)
    )
    assert embedded <= official


def test_proportional_counts():
    """Shares of 7 among 1:1:2 are 1.75, 1.75, 3.5; the two largest remainders get the missing two."""
    assert make_digits.proportional_counts([1, 1, 2], 7) == [2, 2, 3]


def test_stratified_indices():
    labels = np.array([0, 1] * 50 + [2] * 100, np.uint8)
    indices = make_digits.stratified_indices(labels, 20, np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(labels[indices]), [5, 5, 10])
    assert len(set(indices.tolist())) == 20
    np.testing.assert_array_equal(indices, np.sort(indices))


@pytest.mark.parametrize("total", [-1, 3])
def test_stratified_indices_checks_total(total: int):
    with pytest.raises(ValueError, match=rf"2 labels. Received: total={total}"):
        make_digits.stratified_indices(np.zeros(2, np.uint8), total, np.random.default_rng(0))


def test_sample_draws_the_same_digits_from_idx_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(make_digits, "EXAMPLES", {"train": 4, "test": 2})
    for prefix in ("train", "t10k"):
        labels = bytes([0, 1] * 4)
        header = b"\x00\x00\x08\x01" + (8).to_bytes(4, "big")
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels))
        header = b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (8, 1, 2))
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(range(16))))
    arrays = make_digits.sample(tmp_path)
    assert arrays["test_images"].shape == (2, 1, 2)
    np.testing.assert_array_equal(arrays["train_images"][:, 0, 0], 2 * arrays["train_indices"])
    np.testing.assert_array_equal(np.bincount(arrays["train_labels"]), [2, 2])
    tf.nest.map_structure(np.testing.assert_array_equal, arrays, make_digits.sample(tmp_path))


def test_read_idx_rejects_other_files(tmp_path: pathlib.Path):
    path = tmp_path / "floats.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x01"))
    with pytest.raises(ValueError, match=r"Received: path=.*floats\.gz"):
        make_digits.read_idx(path)

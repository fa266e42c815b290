"""Batches are exact, endless, and the same whenever training starts at the same step."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_robust import data

SPLIT = "train[:50]"


def batches(
    count: int, data_dir: pathlib.Path, split: str = SPLIT, **kwargs: Any
) -> list[tuple[np.ndarray, np.ndarray]]:
    stream = data.training_batches("mnist_small", split, **{"batch_size": 8, "seed": 3, "data_dir": data_dir, **kwargs})
    return list(stream.take(count).as_numpy_iterator())


def assert_same(actual: Any, expected: Any) -> None:
    tf.nest.map_structure(np.testing.assert_array_equal, actual, expected)


def keys(some_batches: list[tuple[np.ndarray, np.ndarray]]) -> list[bytes]:
    """One key per example."""
    return [image.tobytes() for images, _ in some_batches for image in images]


@pytest.mark.parametrize("start_step", [1, 5, 6, 7, 12, 20])
def test_start_step_continues_the_stream(start_step: int, data_dir: pathlib.Path):
    """Fifty examples make six batches of eight: 6 and 12 are the first steps of epochs."""
    assert_same(batches(8, data_dir, start_step=start_step), batches(start_step + 8, data_dir)[start_step:])


def test_start_step_far_ahead(data_dir: pathlib.Path):
    far = 6 * 10**9
    assert_same(batches(3, data_dir, start_step=far + 2), batches(5, data_dir, start_step=far)[2:])


@pytest.mark.parametrize("kwargs", [{"cache": False}, {"shuffle_buffer": 50}, {"shuffle_buffer": 1000}])
def test_how_it_is_stored_does_not_matter(kwargs: dict[str, Any], data_dir: pathlib.Path):
    assert_same(batches(14, data_dir, **kwargs), batches(14, data_dir))


def test_small_shuffle_buffer_is_resumable(data_dir: pathlib.Path):
    small = batches(14, data_dir, shuffle_buffer=5)
    assert_same(batches(5, data_dir, shuffle_buffer=5, start_step=9), small[9:])
    assert keys(small) != keys(batches(14, data_dir))


def test_shuffle_buffer_of_one_keeps_the_order_of_the_files(data_dir: pathlib.Path):
    in_order = list(data.evaluation_batches("mnist_small", SPLIT, batch_size=8, data_dir=data_dir).as_numpy_iterator())
    assert_same(batches(6, data_dir, shuffle_buffer=1), in_order[:6])


def test_iterating_twice_gives_the_same(data_dir: pathlib.Path):
    stream = data.training_batches("mnist_small", SPLIT, batch_size=8, seed=3, start_step=4, data_dir=data_dir).take(10)
    assert_same(list(stream.as_numpy_iterator()), list(stream.as_numpy_iterator()))


def test_global_seed_does_not_matter(data_dir: pathlib.Path):
    streams = []
    for seed in (0, 7):
        tf.random.set_seed(seed)
        before = tf.random.uniform([2]).numpy()
        streams.append(batches(8, data_dir))
        tf.random.set_seed(seed)
        batches(1, data_dir)
        assert_same(tf.random.uniform([2]).numpy(), before)  # nor does the stream change the global seed
    assert_same(*streams)


def test_each_epoch_is_another_permutation(data_dir: pathlib.Path):
    stream = batches(10 * 3, data_dir, batch_size=5)
    epochs = [keys(stream[first : first + 10]) for first in (0, 10, 20)]
    in_order = keys(batches(10, data_dir, batch_size=5, shuffle_buffer=1))
    assert len(set(in_order)) == 50
    assert len({tuple(epoch) for epoch in [*epochs, in_order]}) == 4
    assert all(sorted(epoch) == sorted(in_order) for epoch in epochs)


def test_remainder_is_dropped_and_differs_between_epochs(data_dir: pathlib.Path):
    stream = batches(12, data_dir)
    first, second = keys(stream[:6]), keys(stream[6:])
    assert len(set(first)) == len(set(second)) == 48
    assert set(first) != set(second)


@pytest.mark.parametrize("seed", [0, -1, 2**40])
def test_seeds_differ(seed: int, data_dir: pathlib.Path):
    assert keys(batches(6, data_dir, seed=seed)) != keys(batches(6, data_dir))
    assert_same(batches(6, data_dir, seed=seed), batches(6, data_dir, seed=seed))


def test_images_stay_with_their_labels(data_dir: pathlib.Path):
    label_of = {
        (image / np.float32(255)).tobytes(): label
        for image, label in data.load_split("mnist_small", SPLIT, data_dir=data_dir).as_numpy_iterator()
    }
    for images, labels in batches(6, data_dir):
        assert [label_of[image.tobytes()] for image in images] == labels.tolist()


def test_types_shapes_and_range(data_dir: pathlib.Path):
    stream = data.training_batches("mnist_small", "train", batch_size=100, seed=0, data_dir=data_dir)
    image_spec, label_spec = stream.element_spec
    assert image_spec == tf.TensorSpec((100, 28, 28, 1), tf.float32)
    assert label_spec == tf.TensorSpec((100,), tf.int64)
    assert stream.cardinality() == tf.data.INFINITE_CARDINALITY
    images, _ = next(stream.as_numpy_iterator())
    assert (images.min(), images.max()) == (0.0, 1.0)


def test_pixels_are_exact_fractions_of_255(data_dir: pathlib.Path):
    (images, _) = next(
        data.evaluation_batches("mnist_small", "test", batch_size=2_000, data_dir=data_dir).as_numpy_iterator()
    )
    raw = np.stack(
        [image for image, _ in data.load_split("mnist_small", "test", data_dir=data_dir).as_numpy_iterator()]
    )
    assert set(np.unique(raw)) == set(range(256))
    np.testing.assert_array_equal(images, raw.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("function", [data.training_batches, data.evaluation_batches])
def test_one_hot(function: Any, data_dir: pathlib.Path):
    seed = {"seed": 0} if function is data.training_batches else {}
    sparse, one_hot = (
        function("mnist_small", SPLIT, batch_size=8, one_hot=flag, data_dir=data_dir, **seed) for flag in (False, True)
    )
    assert one_hot.element_spec[1].dtype == tf.float32
    for (images, labels), (images_again, rows) in zip(sparse.take(6), one_hot.take(6), strict=True):
        assert_same(images_again.numpy(), images.numpy())
        assert_same(rows.numpy(), np.eye(10, dtype=np.float32)[labels.numpy()])


def test_evaluation_is_complete_and_in_order(data_dir: pathlib.Path):
    evaluation = data.evaluation_batches("mnist_small", SPLIT, batch_size=8, data_dir=data_dir)
    raw = list(data.load_split("mnist_small", SPLIT, data_dir=data_dir).as_numpy_iterator())
    assert len(evaluation) == 7
    for _ in range(2):
        read = list(evaluation.as_numpy_iterator())
        assert [len(labels) for _, labels in read] == [8] * 6 + [2]
        assert_same(np.concatenate([labels for _, labels in read]), np.stack([label for _, label in raw]))
        assert keys(read) == [(image / np.float32(255)).tobytes() for image, _ in raw]


def test_deterministic_and_shared_by_batches(data_dir: pathlib.Path):
    for batched in (
        data.training_batches("mnist_small", SPLIT, batch_size=8, seed=0, data_dir=data_dir),
        data.evaluation_batches("mnist_small", SPLIT, batch_size=8, data_dir=data_dir),
    ):
        assert batched.options().deterministic
        policy = batched.options().experimental_distribute.auto_shard_policy
        assert policy == tf.data.experimental.AutoShardPolicy.DATA


@pytest.mark.parametrize("cache", [True, False])
def test_cache_is_shared_by_the_epochs(cache: bool, data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """Without a cache each epoch decodes the fifty images again; `shuffle` may begin one epoch ahead."""
    decoded = tf.Variable(0, dtype=tf.int64)

    def counted(*args: Any, **kwargs: Any) -> tf.data.Dataset:
        def count(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            decoded.assign_add(1)
            return image, label

        return data.load_split(*args, **kwargs).map(count)

    monkeypatch.setattr("keras_robust.data.pipeline.load_split", counted)
    batches(18, data_dir, cache=cache)
    assert decoded.numpy() == 50 if cache else decoded.numpy() >= 150


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, r"between 1 and 50.*'train\[:50\]' of 'mnist_small'. Received: batch_size=0"),
        ({"batch_size": 51}, r"between 1 and 50.*Received: batch_size=51"),
        ({"start_step": -1}, r"Received: start_step=-1"),
        ({"shuffle_buffer": 0}, r"Received: shuffle_buffer=0"),
        ({"split": "nosuch"}, r"Received: split='nosuch'"),
    ],
)
def test_wrong_training_arguments(kwargs: dict[str, Any], message: str, data_dir: pathlib.Path):
    with pytest.raises(ValueError, match=message):
        batches(1, data_dir, **kwargs)


def test_wrong_evaluation_batch_size(data_dir: pathlib.Path):
    with pytest.raises(ValueError, match="Received: batch_size=-2"):
        data.evaluation_batches("mnist_small", SPLIT, batch_size=-2, data_dir=data_dir)


@pytest.mark.parametrize(("batch_size", "replicas"), [(1, 1), (128, 8)])
def test_batch_sizes_that_divide(batch_size: int, replicas: int):
    data.check_batch_size(batch_size, replicas)


@pytest.mark.parametrize(("batch_size", "replicas"), [(100, 3), (4, 8), (0, 2), (-8, 2), (8, 0)])
def test_batch_sizes_that_do_not_divide(batch_size: int, replicas: int):
    with pytest.raises(ValueError, match=f"Received: batch_size={batch_size}, replicas={replicas}"):
        data.check_batch_size(batch_size, replicas)


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


def test_cifar10(cifar10_metadata: pathlib.Path):
    with tfds.testing.mock_data(num_examples=20, data_dir=cifar10_metadata):
        assert data.describe("cifar10", "train", data_dir=cifar10_metadata).image_shape == (32, 32, 3)
        stream = data.training_batches(
            "cifar10", "train", batch_size=6, seed=0, one_hot=True, data_dir=cifar10_metadata
        )
        for images, labels in stream.take(7).as_numpy_iterator():
            assert images.shape == (6, 32, 32, 3)
            assert 0 <= images.min() < images.max() <= 1
            assert_same(labels.sum(axis=1), np.ones(6))
        evaluation = data.evaluation_batches("cifar10", "train", batch_size=6, data_dir=cifar10_metadata)
        assert [len(labels) for _, labels in evaluation.as_numpy_iterator()] == [6, 6, 6, 2]


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize(
    ("name", "shape", "classes"), [("svhn_cropped", (32, 32, 3), 10), ("cifar100", (32, 32, 3), 100)]
)
def test_mocked_without_metadata(
    name: str, shape: tuple[int, ...], classes: int, download: bool, tmp_path: pathlib.Path
):
    with tfds.testing.mock_data(num_examples=9):
        info = data.describe(name, "train", data_dir=tmp_path, download=download)
        assert info == data.DatasetInfo(name, "train", 9, classes, shape)
        stream = data.training_batches(name, "train", batch_size=4, seed=0, data_dir=tmp_path, download=download)
        assert [len(labels) for _, labels in stream.take(3).as_numpy_iterator()] == [4, 4, 4]

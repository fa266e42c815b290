"""Batches are exact, endless, and the same whenever training starts at the same step."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_robust import data
from keras_robust.data import source

SPLIT = "train[:50]"


def batches(
    count: int, data_dir: pathlib.Path, split: str = SPLIT, **kwargs: Any
) -> list[tuple[np.ndarray, np.ndarray]]:
    stream = data.training_batches("mnist_small", split, **{"batch_size": 8, "seed": 3, "data_dir": data_dir, **kwargs})
    return list(stream.take(count).as_numpy_iterator())


def assert_same(actual: Any, expected: Any) -> None:
    tf.nest.map_structure(np.testing.assert_array_equal, actual, expected)


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> tf.Variable:
    """Returns a variable that counts the images that are decoded from now on."""
    decoded = tf.Variable(0, dtype=tf.int64)

    def counted(*args: Any, **options: Any) -> source.Source:
        opened = source.open_split(*args, **options)

        def decode(contents: tf.Tensor) -> tf.Tensor:
            decoded.assign_add(1)
            return opened.decode_other(contents)

        return dataclasses.replace(opened, decode_other=decode)

    monkeypatch.setattr("keras_robust.data.pipeline.open_split", counted)
    return decoded


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


@pytest.mark.parametrize("seed", [0, 2**16, 2**31 - 1])
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


def test_a_split_that_ends_early_is_no_shorter_split(data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """Neither in an evaluation nor where images are kept for training."""

    def longer(*args: Any, **options: Any) -> source.Source:
        opened = source.open_split(*args, **options)
        return dataclasses.replace(opened, info=dataclasses.replace(opened.info, num_examples=51))

    monkeypatch.setattr("keras_robust.data.pipeline.open_split", longer)
    with pytest.raises(tf.errors.FailedPreconditionError, match="contain 51 elements but contained only 50"):
        list(data.evaluation_batches("mnist_small", SPLIT, batch_size=8, data_dir=data_dir))
    with pytest.raises(tf.errors.FailedPreconditionError, match="contain 51 elements but contained only 50"):
        batches(1, data_dir)


def test_deterministic_and_shared_by_batches(data_dir: pathlib.Path):
    for batched in (
        data.training_batches("mnist_small", SPLIT, batch_size=8, seed=0, data_dir=data_dir),
        data.evaluation_batches("mnist_small", SPLIT, batch_size=8, data_dir=data_dir),
    ):
        assert batched.options().deterministic
        policy = batched.options().experimental_distribute.auto_shard_policy
        assert policy == tf.data.experimental.AutoShardPolicy.DATA


@pytest.mark.parametrize(
    ("cache", "limit", "is_kept"),
    [(True, 0, True), (False, 10**9, False), (None, 50 * 28 * 28, True), (None, 50 * 28 * 28 - 1, False)],
)
def test_images_are_kept_where_they_fit(
    cache: bool | None, limit: int, is_kept: bool, data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """Without a cache each epoch decodes the fifty images again; `shuffle` may begin one epoch ahead."""
    decoded = count_decoded(monkeypatch)
    monkeypatch.setattr("keras_robust.data.pipeline.MAX_CACHE_BYTES", limit)
    batches(18, data_dir, cache=cache)
    assert decoded.numpy() == 50 if is_kept else decoded.numpy() >= 3 * 48


@pytest.mark.parametrize(("limit", "is_kept"), [(50 * 28 * 28, True), (50 * 28 * 28 - 1, False)])
def test_images_of_an_evaluation_are_kept_where_they_fit(
    limit: int, is_kept: bool, data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    decoded = count_decoded(monkeypatch)
    monkeypatch.setattr("keras_robust.data.pipeline.MAX_CACHE_BYTES", limit)
    evaluation = data.evaluation_batches("mnist_small", SPLIT, batch_size=8, data_dir=data_dir)
    assert_same(list(evaluation.as_numpy_iterator()), list(evaluation.as_numpy_iterator()))
    assert decoded.numpy() == (50 if is_kept else 100)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, r"between 1 and 50.*'train\[:50\]' of 'mnist_small'. Received: batch_size=0"),
        ({"batch_size": 51}, r"between 1 and 50.*Received: batch_size=51"),
        ({"start_step": -1}, r"Received: start_step=-1"),
        ({"seed": -1}, "Received: seed=-1"),
        ({"seed": 2**31}, "Received: seed=2147483648"),
        ({"seed": 2**31, "augmentation": "flip_and_crop"}, "Received: seed=2147483648"),
        ({"seed": 1.5}, r"Received: seed=1\.5"),
        ({"seed": True}, "Received: seed=True"),
        ({"shuffle_buffer": 0}, r"Received: shuffle_buffer=0"),
        ({"split": "nosuch"}, r"Received: split='nosuch'"),
        ({"image_size": -1}, r"Received: image_size=-1"),
        ({"augmentation": "inception_crop", "cache": True}, r"Received: cache=True, augmentation='inception_crop'"),
        ({"augmentation": "inception_crop_and_colors"}, r"three channels. Received: images of shape \(8, 28, 28, 1\)"),
        ({"data_service": "localhost:5000"}, r"grpc://HOST:PORT. Received: data_service='localhost:5000'"),
        ({"data_service": "grpc://localhost:1"}, r"Received: data_service='grpc://localhost:1' \(.*refused"),
        ({"data_service": "grpc://localhost:ten"}, r"Received: data_service='grpc://localhost:ten'"),
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

"""Augmented images are exactly the crops and mirror images that they may be, and the same on every run."""

import numpy as np
import pytest
import tensorflow as tf

from keras_robust import data
from keras_robust.data.augmentation import AUGMENTATIONS, flip, flip_and_crop

pytestmark = pytest.mark.graph


def candidates(image: np.ndarray, padding: int) -> list[bytes]:
    """All crops of an image, then their mirror images."""
    height, width = image.shape[:2]
    padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
    places = [(row, column) for row in range(2 * padding + 1) for column in range(2 * padding + 1)]
    crops = [padded[row : row + height, column : column + width] for row, column in places]
    return [crop.tobytes() for crop in crops] + [crop[:, ::-1].tobytes() for crop in crops]


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_all_crops_are_equally_likely(padding):
    image = np.random.default_rng(0).integers(1, 256, (3, 5, 2), np.uint8)
    count = 400 * 2 * (2 * padding + 1) ** 2
    augmented = flip_and_crop(tf.constant(np.stack([image] * count)), tf.constant([0, 1]), padding)
    assert augmented.shape == (count, 3, 5, 2)
    assert augmented.dtype == tf.uint8
    places = [candidates(image, padding).index(one.tobytes()) for one in augmented.numpy()]
    frequencies = np.bincount(places, minlength=2 * (2 * padding + 1) ** 2)
    assert np.all(abs(frequencies - 400) < 5 * np.sqrt(400))


def test_each_image_stays_itself():
    images = np.random.default_rng(0).integers(1, 256, (20, 6, 4, 3), np.uint8)
    for image, augmented in zip(images, flip_and_crop(images, tf.constant([0, 5])).numpy(), strict=True):
        assert augmented.tobytes() in candidates(image, 4)


def test_flips_are_half_of_the_images():
    image = np.random.default_rng(0).integers(1, 256, (3, 4, 1), np.uint8)
    flipped = flip(tf.constant(np.stack([image] * 4000)), tf.constant([0, 2])).numpy()
    is_mirrored = np.all(flipped == image[:, ::-1], axis=(1, 2, 3))
    assert np.all(is_mirrored | np.all(flipped == image, axis=(1, 2, 3)))
    assert abs(is_mirrored.sum() - 2000) < 5 * np.sqrt(1000)


def test_two_pixels_of_free_adversarial_training():
    image = np.random.default_rng(0).integers(1, 256, (6, 6, 3), np.uint8)
    change = AUGMENTATIONS["flip_and_crop_2_pixels"].change
    cropped = change(tf.constant(np.stack([image] * 500)), tf.constant([0, 2])).numpy()
    assert {one.tobytes() for one in cropped} == set(candidates(image, 2))


def test_compiled_draws_are_the_same():
    images, seed = tf.random.stateless_uniform((9, 6, 6, 1), [0, 1]), tf.constant([2, 3])
    compiled = tf.function(flip_and_crop, jit_compile=True)
    np.testing.assert_array_equal(compiled(images, seed), flip_and_crop(images, seed))


def test_the_stream_is_augmented_and_resumes(data_dir):
    def batches(count, **options):
        stream = data.training_batches("mnist_small", "train[:50]", batch_size=8, seed=3, data_dir=data_dir, **options)
        return list(stream.take(count).as_numpy_iterator())

    plain, augmented = batches(14), batches(14, augmentation="flip_and_crop")
    for (images, labels), (others, other_labels) in zip(plain, augmented, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        for image, other in zip(images, others, strict=True):
            assert other.tobytes() in candidates(image, 4)
    for (images, _), (others, _) in zip(
        batches(5, augmentation="flip_and_crop", start_step=9), augmented[9:], strict=True
    ):
        np.testing.assert_array_equal(images, others)


def test_draws_of_steps_epochs_and_images_are_independent(data_dir):
    """Two of 36 steps, of two seeds and three epochs each, cut a place of the batch alike in one of 2 * 9 * 9 cases."""
    options = {"batch_size": 8, "data_dir": data_dir}
    crops = []
    for seed in (3, 4):
        plain, augmented = (
            data.training_batches("mnist_small", "train[:50]", seed=seed, augmentation=name, **options).take(18)
            for name in (None, "flip_and_crop")
        )
        pairs = zip(plain.as_numpy_iterator(), augmented.as_numpy_iterator(), strict=True)
        for (images, _), (others, _) in pairs:
            crops.append([candidates(a, 4).index(b.tobytes()) for a, b in zip(images, others, strict=True)])
    draws = np.array(crops)
    rows = [(draws[i], draws[k]) for i in range(36) for k in range(i)]
    expected = 630 * 8 / 162
    assert sum(np.sum(a == b) for a, b in rows) < expected + 5 * np.sqrt(expected)
    columns = [(draws[:, i], draws[:, k]) for i in range(8) for k in range(i)]
    expected = 28 * 36 / 162
    assert sum(np.sum(a == b) for a, b in columns) < expected + 5 * np.sqrt(expected)


def test_an_unknown_augmentation_is_named(data_dir):
    with pytest.raises(ValueError, match="augmentation='cutout'"):
        data.training_batches("mnist_small", "train", batch_size=8, seed=0, data_dir=data_dir, augmentation="cutout")

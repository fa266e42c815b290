"""Images of differing size are evaluated in the size that the model takes; others as they are."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_robust import data
from keras_robust.evaluation import dataset_for


def model(shape: tuple[int | None, int | None, int]) -> keras.Model:
    layers = [keras.Input(shape), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    return keras.Sequential(layers)


def test_the_size_of_the_model(image_folder: pathlib.Path, tmp_path: pathlib.Path):
    model((20, 20, 3)).save(tmp_path / "model.keras")
    name = f"folder:{image_folder}"
    taken = dataset_for(tmp_path / "model.keras", name, "test", batch_size=9)
    asked = data.evaluation_batches(name, "test", batch_size=9, image_size=20)
    (images, labels), (others, other_labels) = (next(one.as_numpy_iterator()) for one in (taken, asked))
    np.testing.assert_array_equal(images, others)
    np.testing.assert_array_equal(labels, other_labels)


def test_another_size_if_it_is_asked_for(image_folder: pathlib.Path):
    taken = dataset_for(model((20, 20, 3)), f"folder:{image_folder}", "test", batch_size=9, image_size=8)
    assert taken.element_spec[0].shape[1:] == (8, 8, 3)


def test_images_of_one_size_are_as_they_are(tmp_path: pathlib.Path):
    with tfds.testing.mock_data(num_examples=5):
        taken = dataset_for(model((20, 20, 3)), "cifar10", "test", batch_size=5, data_dir=tmp_path)
    assert taken.element_spec[0].shape[1:] == (32, 32, 3)


def test_the_size_of_a_model_that_is_not_square(image_folder: pathlib.Path):
    """Height first, as in Keras."""
    taken = dataset_for(model((20, 24, 3)), f"folder:{image_folder}", "test", batch_size=9)
    assert taken.element_spec[0].shape[1:] == (20, 24, 3)
    asked = data.evaluation_batches(f"folder:{image_folder}", "test", batch_size=9, image_size=(20, 24))
    np.testing.assert_array_equal(*(next(one.as_numpy_iterator())[0] for one in (taken, asked)))


@pytest.mark.parametrize("shape", [(None, None, 3), (20, None, 3)])
def test_a_model_without_one_size(shape, image_folder: pathlib.Path):
    with pytest.raises(ValueError, match=r"image size, such as 224.*Received: image_size=0 for name='folder:"):
        dataset_for(model(shape), f"folder:{image_folder}", "test", batch_size=9)

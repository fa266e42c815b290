"""Folders of images are read completely and in a fixed order; a wrong layout is named in one sentence."""

import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from keras_robust import data


def numbers(images: np.ndarray) -> np.ndarray:
    """Which images they are: blue is ten times the number."""
    return np.round(images[..., 2].mean(axis=tuple(range(1, images.ndim - 1))) * 25.5).astype(int)


def test_all_images_with_their_labels(image_folder: pathlib.Path):
    split = data.load_split(f"folder:{image_folder}", "train")
    assert split.element_spec == (tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.int64))
    loaded = list(split.as_numpy_iterator())
    read = np.concatenate([numbers(image[np.newaxis] / 255) for image, _ in loaded])
    assert sorted(read) == list(range(24))
    np.testing.assert_array_equal([label for _, label in loaded], read % 3)
    assert list(read) != sorted(read)
    for image, _ in loaded:
        rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
        np.testing.assert_allclose(image[..., 0], columns, atol=3)
        np.testing.assert_allclose(image[..., 1], rows, atol=3)


def test_description(image_folder: pathlib.Path):
    info = data.describe(f"folder:{image_folder}", "test")
    assert info == data.DatasetInfo(f"folder:{image_folder}", "test", 9, 3, (None, None, 3))
    assert info.shape_at(64) == (64, 64, 3)


def test_slices_follow_the_order_of_the_split(image_folder: pathlib.Path):
    name = f"folder:{image_folder}"

    def read(split: str) -> list[bytes]:
        return [image.tobytes() for image, _ in data.load_split(name, split).as_numpy_iterator()]

    train, test = read("train"), read("test")
    assert read("train[:75%]") == train[:18]
    assert read("train[-6:]") == train[18:]
    assert read("train[:2]+test[3:5]") == train[:2] + test[3:5]


def test_the_folder_of_the_user(image_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(image_folder.parent))
    assert data.describe(f"folder:~/{image_folder.name}", "test").num_examples == 9


def test_evaluation_in_the_order_of_the_files(image_folder: pathlib.Path):
    name = f"folder:{image_folder}"
    in_order = [label for _, label in data.load_split(name, "test").as_numpy_iterator()]
    batches = list(data.evaluation_batches(name, "test", batch_size=4, image_size=16).as_numpy_iterator())
    assert [images.shape for images, _ in batches] == [(4, 16, 16, 3), (4, 16, 16, 3), (1, 16, 16, 3)]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), in_order)
    assert [int(number) % 3 for images, _ in batches for number in numbers(images)] == in_order


def empty(root: pathlib.Path) -> pathlib.Path:
    for path in root.glob("*/*/*"):
        path.unlink()
    return root


def without_a_class(root: pathlib.Path) -> pathlib.Path:
    shutil.rmtree(root / "test" / "dog")
    return root


def with_a_class_more(root: pathlib.Path) -> pathlib.Path:
    shutil.copytree(root / "train" / "cat", root / "train" / "fox")
    shutil.copytree(root / "train" / "cat", root / "train" / "gnu")
    return root


def with_an_empty_class(root: pathlib.Path) -> pathlib.Path:
    for path in (root / "train" / "emu").iterdir():
        path.rename(path.with_suffix(".gif"))
    return root


WRONG: dict[str, tuple[Callable[[pathlib.Path], pathlib.Path], str, str]] = {
    "no such path": (lambda root: root / "gone", "test", r"folder that is there. Received: name='folder:.*gone'$"),
    "a file": (lambda root: root / "train" / "cat" / "0.png", "test", r"Received: name='folder:.*0.png'$"),
    "no images": (empty, "test", r"SPLIT/CLASS, in files \*.jpg, .*Received: name='folder:.*', where there are none$"),
    "a split as the folder": (lambda root: root / "train", "test", r"SPLIT/CLASS, .*', where there are none$"),
    "no such split": (
        lambda root: root,
        "validation",
        r"sizes: {'test': 9, 'train': 24}. Received: split='validation'",
    ),
    "empty slice": (lambda root: root, "test[5:5]", r"Received: split='test\[5:5\]' \(the slice is empty\)$"),
    "slice outside": (
        lambda root: root,
        "test[10:]",
        r"Received: split='test\[10:\]' \(.*incompatible with 9 examples\)",
    ),
    "a class is missing": (without_a_class, "test", r"split 'test' has none of the class 'dog'$"),
    "missing in another split": (without_a_class, "train", r"split 'test' has none of the class 'dog'$"),
    "two classes more": (with_a_class_more, "train", r"split 'test' has none of the class 'fox' and 1 others$"),
    "a class of other files": (with_an_empty_class, "train", r"split 'train' has none of the class 'emu'$"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_folder_is_named_in_one_sentence(mistake: str, image_folder: pathlib.Path, tmp_path: pathlib.Path):
    make, split, message = WRONG[mistake]
    root = make(pathlib.Path(shutil.copytree(image_folder, tmp_path / "images")))
    with pytest.raises(ValueError, match=message) as error:
        data.describe(f"folder:{root}", split)
    assert "\n" not in str(error.value)


@pytest.mark.shared_data
def test_tiny_imagenet():
    """Images of 64 x 64 are evaluated as they are, and trained on with at least half of their area."""
    name = f"folder:{os.environ['KERAS_ROBUST_TINY_IMAGENET_DIR']}"
    info = data.describe(name, "validation")
    whole = [image for image, _ in data.load_split(name, "validation[:50]").as_numpy_iterator()]
    evaluated = data.evaluation_batches(name, "validation[:50]", batch_size=50, image_size=64)
    images, labels = next(evaluated.as_numpy_iterator())
    np.testing.assert_array_equal(images, np.stack(whole) / np.float32(255))
    assert 0 <= labels.min() < labels.max() < info.num_classes <= 200
    stream = data.training_batches(
        name, "train", batch_size=128, seed=0, image_size=64, augmentation="half_area_crop", start_step=3
    )
    first, again = (list(stream.take(2).as_numpy_iterator()) for _ in range(2))
    for (images, labels), (others, other_labels) in zip(first, again, strict=True):
        assert images.shape == (128, 64, 64, 3)
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, other_labels)

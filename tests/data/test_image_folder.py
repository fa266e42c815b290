"""Folders of images are read completely and in a fixed order; a wrong layout is named in one sentence."""

import io
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

import keras_robust as kr
from keras_robust import data
from keras_robust.data import image_folder as image_folder_module
from keras_robust.data.image_folder import open_folder


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
        path.rename(path.with_suffix(".tif"))
    return root


WRONG: dict[str, tuple[Callable[[pathlib.Path], pathlib.Path], str, str]] = {
    "no such path": (lambda root: root / "gone", "test", r"existing folder. Received: name='folder:.*gone'$"),
    "a file": (lambda root: root / "train" / "cat" / "0.png", "test", r"Received: name='folder:.*0.png'$"),
    "no images": (empty, "test", r"SPLIT/CLASS, in files \*.jpg, .*Received: name='folder:.*', where there are none$"),
    "a split as the folder": (
        lambda root: root / "train",
        "test",
        r"SPLIT/CLASS, .*', where there are none; left out: 24 images in no class folder$",
    ),
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
    "a class of other files": (
        with_an_empty_class,
        "train",
        r"split 'train' has none of the class 'emu'; left out: 8 \*.tif$",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_folder_is_named_in_one_sentence(mistake: str, image_folder: pathlib.Path, tmp_path: pathlib.Path):
    make, split, message = WRONG[mistake]
    root = make(pathlib.Path(shutil.copytree(image_folder, tmp_path / "images")))
    with pytest.raises(ValueError, match=message) as error:
        data.describe(f"folder:{root}", split)
    assert "\n" not in str(error.value)


@pytest.mark.shared_data("KERAS_ROBUST_TINY_IMAGENET_DIR")
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


def test_the_order_is_that_of_tfds(image_folder: pathlib.Path):
    """Slices of folders mean the images that they meant before."""
    builder = tfds.folder_dataset.ImageFolder(str(image_folder))
    folder = open_folder(f"folder:{image_folder}")
    for split in ("train", "test"):
        assert folder.examples(split) == [
            (example.image_path, example.label) for example in builder._split_examples[split]
        ]
    assert folder.classes == builder.info.features["label"].names


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged as a warning; nothing was logged before."""
    image_folder_module._log_once.cache_clear()
    image_folder_module._bad_images.cache_clear()
    logged: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *arguments: logged.append(text % arguments))
    return logged


@pytest.fixture
def copied(image_folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(image_folder, tmp_path / "images"))


def picture() -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(file, "png")
    return file.getvalue()


HIDDEN = [
    "train/.ipynb_checkpoints/0-checkpoint.png",
    ".git/objects/0.png",
    ".git/objects/pack/0.png",
    "__MACOSX/train/cat/0.png",
    "train/cat/._0.png",
    "train/cat/.ipynb_checkpoints/0.png",
    "train/@eaDir/0.png",
    "test/.hidden/0.png",
    "test/dog/.DS_Store",
    "test/dog/Thumbs.db",
    "desktop.ini",
    "__pycache__/cat/0.png",
]


def test_hidden_and_system_files_are_no_data(image_folder: pathlib.Path, copied: pathlib.Path, warnings: list[str]):
    """Classes, splits and order are those of the folder without them, and there is nothing to be said."""
    for path in HIDDEN:
        (copied / path).parent.mkdir(parents=True, exist_ok=True)
        (copied / path).write_bytes(picture())
    clean, other = open_folder(f"folder:{image_folder}"), open_folder(f"folder:{copied}")
    assert other.classes == clean.classes == ["cat", "dog", "emu"]
    relative = [
        {split: [pathlib.Path(path).relative_to(root) for path, _ in images] for split, images in folder.splits.items()}
        for root, folder in ((image_folder, clean), (copied, other))
    ]
    assert relative[0] == relative[1]
    assert warnings == []


def test_what_is_left_out_is_logged_once(copied: pathlib.Path, warnings: list[str]):
    (copied / "train" / "cat" / "notes.txt").touch()
    for name in ("1.tif", "2.TIF", "README"):
        (copied / "test" / "dog" / name).touch()
    (copied / "test" / "dog" / "more").mkdir()
    (copied / "test" / "0.png").write_bytes(picture())
    for _ in range(2):
        assert data.describe(f"folder:{copied}", "train+test").num_examples == 33
    (line,) = warnings
    assert (
        f"'folder:{copied}': 2 *.tif, 1 *.txt, 1 files without a suffix, 1 folders in class folders, 1 images in"
        in line
    )


BAD = {
    "train/cat/bad0.jpg": b"",
    "train/cat/bad1.jpg": b"<!DOCTYPE html><html></html>",
    "train/dog/bad2.png": picture()[:-20],
    "train/dog/bad3.webp": b"RIFF....WEBPVP8 ",
    "train/emu/bad4.gif": b"G",
}


def cut_off(path: pathlib.Path) -> bytes:
    """The beginning of a JPEG: its header and a few pixels; windows above a later cut could be read."""
    contents = path.read_bytes()
    return contents[: contents.index(b"\xff\xda") + 20]


@pytest.fixture
def damaged(copied: pathlib.Path) -> pathlib.Path:
    """Six of 30 training images cannot be read."""
    for path, contents in BAD.items():
        (copied / path).write_bytes(contents)
    (copied / "train/emu/bad5.jpg").write_bytes(cut_off(copied / "train/emu/5.jpg"))
    return copied


@pytest.mark.parametrize(
    ("bad", "augmentation"), [*((bad, None) for bad in BAD), ("truncated", None), ("truncated", "inception_crop")]
)
def test_a_file_that_is_no_image_is_named(bad: str, augmentation: str | None, copied: pathlib.Path):
    contents = BAD.get(bad, cut_off(copied / "train/emu/5.jpg"))
    path = copied / (bad if bad in BAD else "train/emu/5.jpg")
    path.write_bytes(contents)
    name = f"folder:{copied}"
    expected = rf"The file {path} cannot be read as an image. Received: {len(contents)} bytes"
    evaluated = data.evaluation_batches(name, "train", batch_size=3, image_size=8)
    trained = data.training_batches(name, "train", batch_size=24, seed=0, image_size=8, augmentation=augmentation)
    without_augmentation = [data.load_split(name, "train"), evaluated] if augmentation is None else []
    for batches in (trained.take(2), *without_augmentation):
        with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
            list(batches)
    if bad == "truncated":
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
        with pytest.raises(ValueError, match=rf"^{expected}.*on_bad_image=skip.$"):
            kr.evaluate(model, evaluated, kr.attacks.FGSM(kr.Linf(0.1)), verbose=False)


def test_bad_images_are_skipped_and_logged(image_folder: pathlib.Path, damaged: pathlib.Path, warnings: list[str]):
    """What is left is in the order of all files, in every epoch, and a slice has no more images for it."""
    name = f"folder:{damaged}"
    info = data.describe(name, "train", on_bad_image="skip")
    assert (info.num_examples, info.num_classes) == (24, 3)
    (line,) = warnings
    assert f"Skipped 6 of 30 images in 'train' of {name!r}" in line
    assert "bad0.jpg (empty)" in line
    assert line.endswith(" and 3 others")
    good = [
        pathlib.Path(path) for path, _ in open_folder(name).examples("train") if "bad" not in pathlib.Path(path).name
    ]
    read = [image for image, _ in data.load_split(name, "train", on_bad_image="skip").as_numpy_iterator()]
    np.testing.assert_array_equal(
        [numbers(image[np.newaxis] / 255)[0] for image in read], [int(path.stem) for path in good]
    )
    halves = [data.describe(name, half, on_bad_image="skip").num_examples for half in ("train[:15]", "train[15:]")]
    assert sum(halves) == 24
    assert len(warnings) == 3
    batches = data.evaluation_batches(name, "train", batch_size=10, image_size=8, on_bad_image="skip")
    assert [len(labels) for _, labels in batches] == [10, 10, 4]
    options = {"batch_size": 10, "seed": 0, "image_size": 8, "on_bad_image": "skip"}
    stream = [
        labels.tolist() for _, labels in data.training_batches(name, "train", **options).take(4).as_numpy_iterator()
    ]
    later = data.training_batches(name, "train", start_step=2, **options).take(2)
    assert [labels.tolist() for _, labels in later.as_numpy_iterator()] == stream[2:]
    assert [len(labels) for labels in stream] == [10] * 4


def test_a_class_of_bad_images_alone_is_refused(copied: pathlib.Path):
    for path in (copied / "test" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"split='test', where no file of the class 'dog' can be read$"):
        data.evaluation_batches(f"folder:{copied}", "test", batch_size=2, image_size=8, on_bad_image="skip")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("folder", "ignore", r"\('error', 'skip'\). Received: on_bad_image='ignore'"),
        ("mnist_small", "skip", "not for TFDS data sets"),
    ],
)
def test_on_bad_image_is_of_folders(
    name: str, value: str, message: str, image_folder: pathlib.Path, data_dir: pathlib.Path
):
    name = f"folder:{image_folder}" if name == "folder" else name
    with pytest.raises(ValueError, match=message):
        data.load_split(name, "test", data_dir=data_dir, on_bad_image=value)


@pytest.mark.parametrize("augmentation", [None, "inception_crop", "half_area_crop"])
def test_images_that_are_not_square(augmentation: str | None, image_folder: pathlib.Path):
    """Red is the column and green the row of a pixel: no side is taken for the other, and nothing is squeezed."""
    name = f"folder:{image_folder}"
    assert data.describe(name, "train").shape_at((12, 24)) == (12, 24, 3)
    options = {"batch_size": 8, "image_size": (12, 24)}
    train = data.training_batches(name, "train", seed=0, augmentation=augmentation, **options)
    test = data.evaluation_batches(name, "test", **options)
    for batches, most in ((train.take(2), 1.25 if augmentation is None else 2.0), (test.take(1), 1.25)):
        for images, _ in batches.as_numpy_iterator():
            assert images.shape == (8, 12, 24, 3)
            per_row = np.diff(images[..., 1], axis=1).mean((1, 2))
            per_column = np.abs(np.diff(images[..., 0], axis=2).mean((1, 2)))
            assert np.all((1 / most <= per_column / per_row) & (per_column / per_row <= most))


@pytest.mark.parametrize("size", [-1, (0, 8), (8,), (8, 8, 3), (8.0, 8), "8", True, None])
def test_a_size_that_is_none_is_named(size: Any, image_folder: pathlib.Path):
    with pytest.raises(ValueError, match=re.escape(f"Received: image_size={size!r}")):
        data.evaluation_batches(f"folder:{image_folder}", "test", batch_size=2, image_size=size)

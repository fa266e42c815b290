"""Training on a folder of images of differing size, with batches prepared here or by a data service."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.training import run

CONFIG = {
    "config_format": 1,
    "train_split": "train",
    "validation_split": "test",
    "image_size": 12,
    "augmentation": "inception_crop",
    "classifier": {"name": "lenet", "input_shape": (12, 12, 3), "num_classes": 3},
    "method": {"name": "adversarial_training"},
    "attack": {"name": "fgsm", "epsilon": 0.01},
    "optimizer": {"name": "sgd", "learning_rate": 0.01},
    "batch_size": 8,
    "epochs": 1,
}


def train(folder, workdir, **options):
    config = {**CONFIG, "dataset": f"folder:{folder}", **options.pop("changes", {})}
    return kr.training.train(config, workdir, verbose=0, **options)


def test_a_data_service_trains_the_same_model(image_folder, tmp_path):
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    worker = service.WorkerServer(service.WorkerConfig(dispatcher_address=dispatcher.target.removeprefix("grpc://")))
    here = train(image_folder, tmp_path / "here")
    there = train(image_folder, tmp_path / "there", data_service=dispatcher.target)
    assert int(here.steps_taken.numpy()) == 3
    for one, other in zip(here.get_weights(), there.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    del worker


def test_images_of_differing_size_need_a_size(image_folder, tmp_path):
    with pytest.raises(ValueError, match=r"such as 224, for images that differ in size. Received: image_size=0"):
        train(image_folder, tmp_path / "run", changes={"image_size": 0})
    assert not (tmp_path / "run").exists()


def test_images_that_are_not_square_and_files_that_are_none(image_folder, tmp_path):
    """A bad file is named, and the run goes on where it is skipped, with a batch less in each epoch."""
    folder = shutil.copytree(image_folder, tmp_path / "images")
    for number in (3, 6, 9, 12, 15):
        next((folder / "train" / "cat").glob(f"{number}.*")).write_bytes(b"")
    changes = {"image_size": [12, 20], "classifier": CONFIG["classifier"] | {"input_shape": [12, 20, 3]}}
    with pytest.raises(ValueError, match=r"^The file .*/train/cat/\d+.\w+ cannot be read as an image.*: 0 bytes"):
        train(folder, tmp_path / "named", changes=changes)
    model = train(folder, tmp_path / "skipped", changes=changes | {"on_bad_image": "skip"})
    assert int(model.steps_taken.numpy()) == (24 - 5) // 8
    assert model.classifier.input_shape == (None, 12, 20, 3)


def test_a_data_service_feeds_one_process(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "is_multi_worker", lambda strategy: True)
    with pytest.raises(
        ValueError, match=r"feeds one process.*Received: data_service='grpc://localhost:1' with several"
    ):
        train(image_folder, tmp_path / "run", data_service="grpc://localhost:1")

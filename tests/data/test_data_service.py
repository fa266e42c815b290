"""A tf.data service in this process prepares the batches that are prepared without it."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_robust import data

service = tf.data.experimental.service


def start(workers: int) -> tuple[str, list[Any]]:
    """Returns the address of a dispatcher, and what must be kept for it to go on."""
    dispatcher = service.DispatchServer()
    address = dispatcher.target.removeprefix("grpc://")
    return dispatcher.target, [
        dispatcher,
        *(service.WorkerServer(service.WorkerConfig(dispatcher_address=address)) for _ in range(workers)),
    ]


def batches(folder: pathlib.Path, count: int, **options: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    options = {"batch_size": 8, "seed": 3, "image_size": 12, **options}
    stream = data.training_batches(f"folder:{folder}", "train", **options)
    assert stream.cardinality() == tf.data.INFINITE_CARDINALITY
    assert stream.element_spec[0].shape == (8, 12, 12, 3)
    return list(stream.take(count).as_numpy_iterator())


@pytest.mark.parametrize("augmentation", ["half_area_crop", None])
def test_one_worker_prepares_the_same_stream(augmentation: str, image_folder: pathlib.Path):
    """Of images that are cut at random, and of images kept in memory; three batches make an epoch."""
    address, servers = start(workers=1)
    here, there = (
        batches(image_folder, 8, augmentation=augmentation, start_step=2, one_hot=True, data_service=target)
        for target in (None, address)
    )
    tf.nest.map_structure(np.testing.assert_array_equal, there, here)
    del servers


def test_several_workers_prepare_an_epoch_each(image_folder: pathlib.Path):
    """Every batch is one of the stream; none comes twice."""
    address, servers = start(workers=2)
    there = batches(image_folder, 12, augmentation="half_area_crop", start_step=1, data_service=address)
    here = batches(image_folder, 60, augmentation="half_area_crop", start_step=1)
    prepared = [images.tobytes() for images, _ in there]
    assert len(set(prepared)) == 12
    assert set(prepared) <= {images.tobytes() for images, _ in here}
    del servers

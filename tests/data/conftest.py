"""Fixtures of the data tests: no test touches the user's folder of data sets."""

import pathlib

import pytest

from keras_robust import data


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder in which `mnist_small` is prepared."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    data.describe("mnist_small", "train", data_dir=folder)
    return folder

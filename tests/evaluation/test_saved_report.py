"""Reports on disk."""

import pathlib

import numpy as np
import pytest

from keras_robust import reports
from keras_robust.evaluation import Report


def test_a_folder_with_a_record_holds_a_whole_report(tmp_path, monkeypatch):
    """The record, by which an evaluation is known to be finished, is renamed into place after all else."""
    made = Report({"clean_accuracy": 0.5}, {"labels": np.arange(3)})
    monkeypatch.setattr(reports, "write_report", fail)
    assert_not_saved(made, tmp_path)
    monkeypatch.setattr(reports, "write_report", lambda record, samples, folder: None)
    monkeypatch.setattr(pathlib.Path, "replace", fail)
    assert_not_saved(made, tmp_path)


def assert_not_saved(made, folder):
    with pytest.raises(OSError, match="disk"):
        made.save(folder)
    with pytest.raises(ValueError, match=r"must hold the file record\.json"):
        Report.load(folder)


def fail(*args, **kwargs):
    raise OSError("The disk is full")

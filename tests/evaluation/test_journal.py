"""A journal gives back what it was given, whole, and only to the evaluation that it belongs to."""

import numpy as np
import pytest

from keras_robust.evaluation.inputs import digest
from keras_robust.evaluation.journal import Journal

FINGERPRINT = {"seed": 1, "attacks": {"PGD": {"steps": 3}}}


def test_arrays_come_back(tmp_path):
    arrays = {"left": np.arange(3), "state/point": np.ones((2, 2), np.float32), "step": np.asarray(5)}
    Journal(tmp_path / "new" / "journal", FINGERPRINT).save("attack0-1", arrays)
    again = Journal(tmp_path / "new" / "journal", FINGERPRINT)
    found = again.load("attack0-1")
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert again.load("attack0-2") is None


def test_a_half_written_set_is_never_read(tmp_path, monkeypatch):
    journal = Journal(tmp_path, FINGERPRINT)
    journal.save("a", {"x": np.zeros(2)})

    def killed(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        journal.save("a", {"x": np.ones(2)})
    np.testing.assert_array_equal(Journal(tmp_path, FINGERPRINT).load("a")["x"], [0, 0])


@pytest.mark.parametrize("damage", ["empty", "cut", "a byte", "text"])
def test_a_damaged_set_is_refused(tmp_path, damage):
    """As a full disk or a lost write leaves it: no part of it may be taken for the whole."""
    journal, path = Journal(tmp_path, FINGERPRINT), tmp_path / "a.npz"
    journal.save("a", {"x": np.arange(100), "y": np.ones(3)})
    whole = path.read_bytes()
    inside = whole.index(np.arange(100).tobytes()) + 200
    flipped = whole[:inside] + bytes([whole[inside] ^ 1]) + whole[inside + 1 :]
    path.write_bytes({"empty": b"", "cut": whole[:-40], "a byte": flipped, "text": b"progress"}[damage])
    with pytest.raises(ValueError, match=rf"damaged: delete {tmp_path}\. Received: {path}"):
        journal.load("a")


def test_another_evaluation_is_refused_by_name(tmp_path):
    Journal(tmp_path, FINGERPRINT)
    with pytest.raises(ValueError, match=rf"another attacks, seed.*Received: journal={tmp_path}"):
        Journal(tmp_path, {"seed": 2, "attacks": {}})


def test_a_digest_depends_on_values_shape_and_dtype():
    array = np.arange(6)
    others = [array + 1, array.reshape(2, 3), array.astype(np.int32)]
    assert digest(array) == digest(array.copy())
    assert len({digest(array), *map(digest, others)}) == 4
    assert digest(array[:3], array[3:]) != digest(array)

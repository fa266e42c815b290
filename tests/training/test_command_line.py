"""What the launch scripts make of lists on the command line."""

import pytest

from keras_robust.training.command_line import named_files


def test_files_have_names():
    assert named_files(["a=runs/a=1.keras", "b=x"]) == {"a": "runs/a=1.keras", "b": "x"}
    assert named_files([]) == {}


@pytest.mark.parametrize("entries", [["other.keras"], ["=other.keras"], ["a="], ["a=x", "a=y"]])
def test_bad_entries_are_named(entries):
    with pytest.raises(ValueError, match=f"Received: {','.join(entries)}"):
        named_files(entries)

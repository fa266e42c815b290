"""What the launch scripts make of lists on the command line."""

import pytest

from keras_robust.training import command_line
from keras_robust.training.command_line import named_files


def test_files_have_names():
    assert named_files(["a=runs/a=1.keras", "b=x"]) == {"a": "runs/a=1.keras", "b": "x"}
    assert named_files([]) == {}


@pytest.mark.parametrize("entries", [["other.keras"], ["=other.keras"], ["a="], ["a=x", "a=y"]])
def test_bad_entries_are_named(entries):
    with pytest.raises(ValueError, match=f"Received: {','.join(entries)}"):
        named_files(entries)


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), ("64", 64), ("0", 0), ("64x96", (64, 96)), ("64,96", (64, 96))]
)
def test_the_size_of_images(text, size):
    assert command_line.image_size(text) == size


@pytest.mark.parametrize("text", ["", "64x", "64x96x3", "-1", "a", "6.5"])
def test_a_text_that_is_no_size_is_named(text):
    with pytest.raises(ValueError, match=f"64x96. Received: image_size='{text}'$"):
        command_line.image_size(text)

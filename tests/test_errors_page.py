"""docs/errors.md is what the script makes of the source."""

import importlib.util
import pathlib

SCRIPT = pathlib.Path(__file__).parents[1] / "docs" / "make_errors.py"


def test_the_page_holds_every_message_of_the_source():
    spec = importlib.util.spec_from_file_location("make_errors", SCRIPT)
    make_errors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_errors)
    assert make_errors.PAGE.read_text() == make_errors.render(), "run python docs/make_errors.py"

"""What the launch scripts share: running `main`, reporting errors, and parsing flags."""

import importlib
import re
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from keras_robust.core.serialization import not_registered
from keras_robust.training.preemption import START_AGAIN, Preempted

IMPORTS = flags.DEFINE_list(
    "import", [], "Modules to import first, such as those that register your own Keras classes."
)
USER_ERRORS = (ValueError, FloatingPointError, OSError, ImportError)
_QUOTES = "\"'"


def run(main: Callable[[list[str]], None]) -> None:
    """Parses absl flags and runs `main`. Warnings are logged, TensorFlow's informational messages are not.

    If the user's input is wrong, the script ends with exit code 1 and one readable line instead of a traceback. If the
    run was preempted, it ends with exit code 75 (`START_AGAIN`).
    """

    def checked_main(arguments: list[str]) -> None:
        try:
            for module in IMPORTS.value:
                importlib.import_module(module)
            main(arguments)
        except USER_ERRORS as error:
            sys.exit(f"{type(error).__name__}: {error}")
        except TypeError as error:
            absent = not_registered(error)
            if absent is None:
                raise
            sys.exit(
                f"ValueError: the file contains the {absent}, which Keras does not know. Use --import=MODULE to name "
                "the module that registers it with keras.saving.register_keras_serializable"
            )
        except Preempted as reason:
            print(reason, file=sys.stderr)
            sys.exit(START_AGAIN)

    logging.set_verbosity(logging.WARNING)
    app.run(checked_main, flags_parser=_parse_flags)


def _parse_flags(arguments: list[str]) -> Any:
    try:
        return app.parse_flags_with_usage(arguments)
    except (KeyError, AttributeError) as error:  # from ml_collections, for an unknown field
        sys.exit(f"ValueError: the config has no such field: {str(error.args[0]).strip(_QUOTES)}")
    except (*USER_ERRORS, TypeError) as error:  # a value of the wrong type
        sys.exit(f"ValueError: {error}")


def named_files(entries: list[str]) -> dict[str, str]:
    """Returns files by name, from entries such as "pgd8=runs/pgd8/best.keras".

    Raises:
        ValueError: if an entry has no name or no file, or if two entries have the same name.
    """
    pairs = [entry.partition("=") for entry in entries]
    files = {name: file for name, _, file in pairs}
    if not all(files) or not all(files.values()) or len(files) < len(entries):
        raise ValueError(f"Models must be NAME=FILE, each with its own name. Received: {','.join(entries)}")
    return files


def image_size(text: str | None) -> int | tuple[int, ...] | None:
    """Returns the image size in a flag: "64" is one number, "64x96" or "64,96" is (height, width), None is None.

    Raises:
        ValueError: if the text has another form.
    """
    if text is None:
        return None
    if not re.fullmatch(r"\d+([x,]\d+)?", text):
        raise ValueError(
            f"image_size must be a number such as 64, or HEIGHTxWIDTH such as 64x96. Received: image_size={text!r}"
        )
    sides = tuple(map(int, re.split("[x,]", text)))
    return sides if len(sides) > 1 else sides[0]

"""What the launch scripts share."""

import importlib
import re
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from keras_robust.core.serialization import not_registered
from keras_robust.training.preemption import START_AGAIN, Preempted

IMPORTS = flags.DEFINE_list("import", [], "Modules to import first: those that register Keras classes of yours.")
USER_ERRORS = (ValueError, FloatingPointError, OSError, ImportError)
_QUOTES = "\"'"


def run(main: Callable[[list[str]], None]) -> None:
    """Parses absl flags and runs `main`, with warnings logged but not TensorFlow's chatter.

    Where the user's input is at fault, the script ends with exit code 1 and one readable line instead of a traceback.
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
                f"ValueError: the file has the {absent}, which Keras does not know: name the module that registers it "
                "with keras.saving.register_keras_serializable by --import=MODULE"
            )
        except Preempted as reason:
            print(reason, file=sys.stderr)
            sys.exit(START_AGAIN)

    logging.set_verbosity(logging.WARNING)
    app.run(checked_main, flags_parser=_parse_flags)


def _parse_flags(arguments: list[str]) -> Any:
    try:
        return app.parse_flags_with_usage(arguments)
    except (KeyError, AttributeError) as error:  # ml_collections: a config has no such field
        sys.exit(f"ValueError: the config has no such field: {str(error.args[0]).strip(_QUOTES)}")
    except (*USER_ERRORS, TypeError) as error:  # a value of the wrong type
        sys.exit(f"ValueError: {error}")


def named_files(entries: list[str]) -> dict[str, str]:
    """Returns files by name, from entries such as "pgd8=runs/pgd8/best.keras".

    Raises:
        ValueError: if an entry has no name or no file, or two have one name.
    """
    pairs = [entry.partition("=") for entry in entries]
    files = {name: file for name, _, file in pairs}
    if not all(files) or not all(files.values()) or len(files) < len(entries):
        raise ValueError(f"Models are NAME=FILE, with a name each. Received: {','.join(entries)}")
    return files


def image_size(text: str | None) -> int | tuple[int, ...] | None:
    """Returns the size of a flag such as "64", "64x96" or "64,96", height and width; None where it was not given.

    Raises:
        ValueError: if it is none of these.
    """
    if text is None:
        return None
    if not re.fullmatch(r"\d+([x,]\d+)?", text):
        raise ValueError(f"An image size is 64, or HEIGHTxWIDTH such as 64x96. Received: image_size={text!r}")
    sides = tuple(map(int, re.split("[x,]", text)))
    return sides if len(sides) > 1 else sides[0]

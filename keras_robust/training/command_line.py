"""What the launch scripts share."""

import functools
import sys
from collections.abc import Callable
from typing import Any


def reports_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Makes a script end with exit code 1 and one readable line where the user's input is at fault, not a traceback."""

    @functools.wraps(main)
    def run(*args: Any) -> None:
        try:
            main(*args)
        except (ValueError, FloatingPointError) as error:
            sys.exit(f"{type(error).__name__}: {error}")

    return run

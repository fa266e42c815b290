"""Progress on disk, so that an evaluation that was killed goes on where it stopped."""

import json
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

FINGERPRINT_FILE = "evaluation.json"

Analysis = Callable[[], dict[str, Any] | tuple[dict[str, Any], dict[str, np.ndarray]]]
"""Returns a part of the record, and arrays to be kept with the samples if there are any."""


class Journal:
    """Named sets of arrays in a folder that belongs to one evaluation.

    A set is written to a temporary file and renamed, so that what is read is always whole.

    Args:
        folder: made where it is missing.
        fingerprint: what the evaluation depends on, as JSON.
        as_written_today: maps a fingerprint that an earlier version wrote to what this version would have written.

    Raises:
        ValueError: if the folder holds the progress of another evaluation, or cannot be written to.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        fingerprint: dict[str, Any],
        as_written_today: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> None:
        self.folder = pathlib.Path(folder)
        path = self.folder / FINGERPRINT_FILE
        fingerprint = json.loads(json.dumps(fingerprint))
        if path.exists():
            found = as_written_today(json.loads(path.read_text()))
            different = sorted(key for key in {*found, *fingerprint} if found.get(key) != fingerprint.get(key))
            if different:
                raise ValueError(
                    f"The folder holds the progress of an evaluation with another {', '.join(different)}. Delete it or "
                    f"choose another one. Received: journal={self.folder}"
                )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(path, json.dumps(fingerprint, indent=1).encode())
        except OSError as error:
            raise ValueError(
                f"journal is a folder that can be made and written to. Received: journal={self.folder} ({error})"
            ) from error

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """Returns the arrays saved under a name, or None.

        Raises:
            ValueError: if their file is damaged.
        """
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return dict(arrays)
        except (EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"The progress is damaged: delete {self.folder}. Received: {path}") from error

    def save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Replaces the arrays saved under a name."""
        path = self.folder / f"{name}.npz"
        temporary = path.with_suffix(".writing")
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)

    @staticmethod
    def _write(path: pathlib.Path, content: bytes) -> None:
        temporary = path.with_suffix(".writing")
        temporary.write_bytes(content)
        temporary.replace(path)


def remember(journal: Journal | None, key: str, function: Analysis) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns what an analysis returns, from the journal if it is there: a part of the record, and arrays.

    Args:
        journal: in which it is kept, or None.
        key: under which.
        function: the analysis.

    Raises:
        ValueError: if it returns what JSON does not hold.
    """
    saved = None if journal is None else journal.load(key)
    if saved is None:
        result = function()
        part, arrays = result if isinstance(result, tuple) else (result, {})
        saved = {"json": np.array(json.dumps(part, default=_plain)), **arrays}
        if journal is not None:
            journal.save(key, saved)
    arrays = dict(saved)
    return json.loads(str(arrays.pop("json"))), arrays


def _plain(value: Any) -> Any:
    """Returns NumPy values and tensors as plain Python values, for JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if hasattr(value, "numpy"):
        return np.asarray(value).tolist()
    raise ValueError(
        "An analysis returns a dictionary of plain Python values, and arrays as a second result. "
        f"Received: {value!r} of type {type(value).__name__}"
    )

"""Saves the progress of an evaluation on disk, so that an evaluation that was killed can continue."""

import json
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

FINGERPRINT_FILE = "evaluation.json"

Analysis = Callable[[], dict[str, Any] | tuple[dict[str, Any], dict[str, np.ndarray]]]
"""Returns a part of the record. It may also return arrays, which are saved with the samples."""


class Journal:
    """Saves and loads named sets of arrays in a folder. A folder belongs to one evaluation.

    Each set is written to a temporary file that is then renamed, so that a reader never sees a partial file.

    Args:
        folder: the folder. It is made if it is missing.
        fingerprint: everything that the results of the evaluation depend on. JSON must be able to hold it.
        as_written_today: converts a fingerprint in an older file to the current form.

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
                    "journal must be a new folder or that of the same evaluation. This folder holds the progress of an "
                    f"evaluation with another {', '.join(different)}. Delete it or choose another folder. "
                    f"Received: journal={self.folder}"
                )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(path, json.dumps(fingerprint, indent=1).encode())
        except OSError as error:
            raise ValueError(
                f"journal must be a folder that can be made and written to. Received: journal={self.folder} ({error})"
            ) from error

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """Returns the arrays that were saved under a name, or None if there are none.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return dict(arrays)
        except (EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"The saved progress is damaged: delete {self.folder}. Received: {path}") from error

    def save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Saves arrays under a name. Arrays that were saved under this name before are replaced."""
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
    """Returns the result of an analysis. It is read from the journal if it is there, otherwise measured and saved.

    Args:
        journal: the journal, or None to save nothing.
        key: name of the result in the journal.
        function: the analysis.

    Returns:
        A part of the record, and arrays by name.

    Raises:
        ValueError: if JSON cannot hold the result.
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
        "An analysis must return a dictionary of plain Python values. It may return arrays as a second result. "
        f"Received: {value!r} of type {type(value).__name__}"
    )

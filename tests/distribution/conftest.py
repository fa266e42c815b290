"""Executables that stand for gcloud, srun and others: they note how they are called, and answer as they are told."""

import json
import pathlib
import stat
import sys
from collections.abc import Callable

import pytest

from keras_robust.tools.tpu_training import Training

SCRIPT = """#!{python} -SE
import json, pathlib, sys
folder = pathlib.Path({folder!r})
with (folder / "calls.jsonl").open("a") as file:
    file.write(json.dumps([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
answers = json.loads((folder / "answers.json").read_text())
for word, queue in answers.items():
    if any(word in argument for argument in sys.argv) and queue:
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        (folder / "answers.json").write_text(json.dumps(answers))
        print(answer["output"])
        print(answer["errors"], file=sys.stderr)
        sys.exit(answer["exit_code"])
"""


class FakeCommands:
    """Executables of a folder.

    Args:
        folder: where they and their notes lie.
        names: what they are called.
    """

    def __init__(self, folder: pathlib.Path, *names: str) -> None:
        self.folder = folder
        self.answer()
        for name in names:
            path = folder / name
            path.write_text(SCRIPT.format(python=sys.executable, folder=str(folder)))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def answer(self, **queues: list[int | str]) -> None:
        """Sets, per word of an argument, what calls with it end with, one after the other and the last one for ever.

        A number is an exit code; a text is printed; "NOT_FOUND" is printed as an error, with exit code 1.
        """
        answers = {word: [self._answer(value) for value in queue] for word, queue in queues.items()}
        (self.folder / "answers.json").write_text(json.dumps(answers))

    @staticmethod
    def _answer(value: int | str) -> dict[str, int | str]:
        if value == "NOT_FOUND":
            return {"exit_code": 1, "output": "", "errors": "ERROR: (gcloud) NOT_FOUND: no such resource"}
        exit_code = value if isinstance(value, int) else 0
        return {"exit_code": exit_code, "output": "" if isinstance(value, int) else value, "errors": ""}

    @property
    def calls(self) -> list[list[str]]:
        """How they were called, first to last; a call is a name and arguments."""
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def fake_commands(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCommands]:
    """Makes executables, first in PATH, in the place of those with the given names."""

    def make(*names: str) -> FakeCommands:
        folder = tmp_path / "bin"
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        return FakeCommands(folder, *names)

    return make


@pytest.fixture
def training(tmp_path: pathlib.Path) -> Training:
    """A run of a config of this machine, in a bucket."""
    config = tmp_path / "mine.py"
    config.write_text("")
    return Training(f"{config}:fast", "gs://b/runs/mine", "gs://b/tfds", ("--config.epochs=5",))

"""The code of the README and the launch commands of docs/configs.md run; `make` targets in the docs exist."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from keras_robust.evaluation import autoattack, masking

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIGS = (ROOT / "docs" / "configs.md").read_text()
SMALLER = {
    "train": ["--config.train_split=train[:256]", "--config.validation_split=train[:64]", "--config.epochs=1"],
    "evaluate": ["--split=test[:16]"],
    "compare": [],
    "export": [],
}

FEWER_IMAGES = {
    '"mnist_small", "train"': '"mnist_small", "train[:300]"',
    '"test[:200]", batch_size=100': '"test[:20]", batch_size=20',
    "test.take(1)": "test.unbatch().take(4).batch(4)",
}


def code_blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.fixture(scope="module")
def environment(data_dir):
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT), "TFDS_DATA_DIR": str(data_dir)}


def test_the_python_examples_run_one_after_the_other(environment, tmp_path):
    """As they stand, but on fewer images."""
    example = "\n".join(code_blocks(README, "python"))
    for words, fewer in FEWER_IMAGES.items():
        assert words in example
        example = example.replace(words, fewer)
    result = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "val_robust_accuracy" in result.stdout
    assert "%  PGD-40 (Linf 0.3, step 0.01, 5 restarts)" in result.stdout
    assert "%  AutoAttack standard (Linf 0.3)" in result.stdout
    assert "gradient masking check" in result.stdout or "masking is suspected" in result.stdout
    assert {"model.keras", "report", "export"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.graph
def test_the_launch_commands_run_on_fewer_images(environment, data_dir, launch, tmp_path, monkeypatch):
    """The first in a process of its own, as the user runs it, the others in this process."""
    monkeypatch.setattr(autoattack, "QUERIES", 20)
    for name, value in {"STEPS": 4, "LONG_STEPS": 8, "RESTARTS": 2, "QUERIES": 20}.items():
        monkeypatch.setattr(masking, name, value)
    (block,) = code_blocks(CONFIGS, "bash")
    commands = block.strip().splitlines()
    assert {re.search(r"launch/(\w+)\.py", command)[1] for command in commands} == set(SMALLER)
    for command in commands:
        python, script, *arguments = shlex.split(command.replace("runs/", f"{tmp_path}/runs/"))
        assert python == "python"
        name, arguments = pathlib.Path(script).stem, [*arguments, *SMALLER[pathlib.Path(script).stem]]
        if command == commands[0]:
            call = [sys.executable, script, *arguments]
            result = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
        else:
            data = [f"--data_dir={data_dir}"] if name in ("train", "evaluate") else []
            result = launch(name, *arguments, *data)
        assert result.returncode == 0, f"{command}\n{result.stderr[-2000:]}"
    written = {path.name for path in (tmp_path / "runs/demo").iterdir()}
    assert {"report", "black_box", "autoattack", "comparison", "export"} <= written


def make_calls(text):
    """Returns the targets of every call of make in the code of a page: spans, fenced blocks and indented lines."""
    spans = [span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    lines = re.findall(r"^ {4}(.*)$", text, re.MULTILINE)
    fenced = [line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    calls = [re.match(r"(?:\w+=\S+ )*make\b(.*)", code.partition("#")[0]) for code in [*spans, *lines, *fenced]]
    return {word for call in calls if call for word in call[1].split() if "=" not in word}


def test_every_make_target_of_the_docs_exists():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    named = set().union(*(make_calls(page.read_text()) for page in pages))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named == targets

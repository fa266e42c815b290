"""What the activations of a RevNet take in a training step, by its depth."""

import functools
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import pytest

SCRIPT = pathlib.Path(__file__).parent / "memory_of_step.py"
BATCHES = {"xla": (64, 128), "graph": (256, 512)}
MODES = [pytest.param("xla", marks=pytest.mark.xla), "graph"]
pytestmark = pytest.mark.slow


def bytes_of_step(mode: str, network: str, depth: int, batch: int) -> int:
    """All that a step needs: by XLA's assignment of buffers, or by the most memory that a process of its own held."""
    with tempfile.TemporaryDirectory() as folder:
        dump = f"--xla_dump_to={folder} --xla_dump_hlo_as_text" if mode == "xla" else ""
        arguments = [sys.executable, str(SCRIPT), mode, network, str(depth), str(batch)]
        environment = {**os.environ, "XLA_FLAGS": dump}
        most = int(subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True).stdout)
        if mode == "graph":
            return most
        files = pathlib.Path(folder).glob("*training_step*buffer-assignment.txt")
        assignment = max(files, key=lambda file: file.stat().st_size).read_text()
        return int(re.search(r"Total bytes used: (\d+)", assignment).group(1))


@functools.cache
def bytes_per_image(mode: str, network: str, depth: int) -> float:
    """The slope of memory in the batch size, in which weights and program do not show."""
    few, many = BATCHES[mode]
    return (bytes_of_step(mode, network, depth, many) - bytes_of_step(mode, network, depth, few)) / (many - few)


@pytest.mark.parametrize("mode", MODES)
def test_activations_do_not_grow_with_the_depth(mode):
    """From 9 blocks to 27 of the same width. XLA or grappler could merge the forward passes and so undo it."""
    deep = bytes_per_image(mode, "revnet", 110)
    assert deep < 1.1 * bytes_per_image(mode, "revnet", 9)


@pytest.mark.parametrize("mode", MODES)
def test_those_of_other_networks_do(mode):
    """So the measure would see it."""
    assert bytes_per_image(mode, "stored", 110) > 2 * bytes_per_image(mode, "stored", 9)
    assert bytes_per_image(mode, "resnet", 110) > 2 * bytes_per_image(mode, "resnet", 38)

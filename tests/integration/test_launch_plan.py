"""The launch script of plans as a user runs it."""

import json
import pathlib
import re
import shlex

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "planning.md").read_text()


@pytest.fixture
def run_plan(launch):
    """Runs the script in this process, and returns what it printed."""

    def run(arguments):
        ended = launch("plan", *arguments)
        assert ended.returncode == 0, ended.stderr[-2000:]
        return ended.stdout

    return run


def hours(printed):
    return re.search(r"^time +([0-9.]+) hours", printed, re.MULTILINE)[1]


def test_a_plan_is_printed_and_written(run_plan, tmp_path):
    call = ["--config=configs/mnist_alp.py:alp", "--config.batch_size=256", "--accelerators=tpu-v5e-4"]
    options = ["--utilization=0.5", "--price_per_device_hour=1.5", f"--output={tmp_path}/plan.json"]
    printed = run_plan([*call, *options])
    assert "AdversarialLogitPairing of lenet on 4 x TPU v5e" in printed
    assert "at 1.5 per device hour" in printed
    written = json.loads((tmp_path / "plan.json").read_text())
    assert (written["batch_size"], written["utilization"], written["epochs"]) == (256, 0.5, 100)


@pytest.mark.slow
def test_the_documentation_has_what_its_commands_print(run_plan, tmp_path):
    commands = re.findall(r"^    python launch/plan.py (--config=configs/imagenet_scale.*)$", PAGE, re.MULTILINE)
    attacked, paired = (shlex.split(command.replace("plan.json", f"{tmp_path}/plan.json")) for command in commands)
    assert run_plan(attacked).strip() == re.search(r"```\n(run .*?)\n```", PAGE, re.DOTALL)[1]
    assert f"says {hours(run_plan(paired))} hours at a utilization of 0.66" in PAGE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "in_words"), [("clean0", "{} hours instead of 58.1"), ("alp", "and {} with logit")]
)
def test_the_documentation_has_the_hours_in_float16(run_plan, variant, in_words):
    config = [f"--config=configs/imagenet_scale.py:{variant}", "--config.attack.compute_dtype=float16"]
    assert in_words.format(hours(run_plan([*config, "--accelerators=128xV100-16GB"]))) in PAGE

"""The launch scripts as a user runs them: train, evaluate white and black box, export, and what they refuse."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust  # noqa: F401  (its models can be loaded)

ROOT = pathlib.Path(__file__).parents[2]
SMALL = [
    "--config=configs/mnist_small_alp.py",
    "--config.train_split=train[:256]",
    "--config.validation_split=train[9500:9564]",
    "--config.batch_size=32",
    "--config.epochs=2",
    "--config.attack.steps=2",
    "--config.validation_attack.steps=2",
    "--config.image_size=0",  # which the file leaves as it is by default
]


@pytest.fixture(scope="module")
def run(launch):
    """Runs a script in this process to its end, and returns what it printed."""

    def run(script, *arguments, exit_code=0):
        ended = launch(script, *arguments)
        assert ended.returncode == exit_code, ended.stderr[-2000:]
        return ended.stdout if exit_code == 0 else ended.stderr

    return run


@pytest.fixture(scope="module")
def data_dir(data_dir):
    return f"--data_dir={data_dir}"


@pytest.fixture(scope="module")
def workdir(run, tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("runs") / "small"
    output = run("train", *SMALL, f"--workdir={folder}", data_dir)
    assert "Epoch 2/2" in output
    assert str(folder) in output
    return folder


def test_evaluate_writes_a_report_with_curves_and_pictures(run, workdir, data_dir, tmp_path):
    attack = ["--attack=pgd", "--epsilon=0.3", "--steps=3", "--restarts=2"]
    data = ["--dataset=mnist_small", "--split=test[:40]", data_dir]
    output = run("evaluate", f"--model={workdir}/best.keras", *data, *attack, f"--output={tmp_path}/report")
    assert "clean" in output
    assert "PGD-3 (Linf 0.3, step 0.25, 2 restarts)" in output
    record = json.loads((tmp_path / "report" / "record.json").read_text())
    assert record["examples"] == 40
    assert record["dataset"] == "mnist_small test[:40], TFDS order"
    assert record["black_box_source"] is None
    assert len(record["training"]["history"]["val_robust_accuracy"]) == 2
    assert record["training"]["config"]["attack"]["steps"] == 2
    assert "--restarts=2" in record["command"]
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("data:image/png") == 3 * 8


def test_evaluate_black_box(run, workdir, data_dir, tmp_path):
    models = [f"--model={workdir}/last.keras", f"--source={workdir}/best.keras"]
    data = ["--dataset=mnist_small", "--split=test[:20]", data_dir]
    output = run("evaluate", *models, *data, "--attack=fgsm", "--epsilon=0.3", f"--output={tmp_path}/report")
    assert "black box" in output
    assert json.loads((tmp_path / "report" / "record.json").read_text())["black_box_source"].endswith("best.keras")


def test_export_serves(run, workdir, tmp_path):
    run("export", f"--model={workdir}/best.keras", f"--output={tmp_path}/export")
    loaded = tf.saved_model.load(tmp_path / "export")
    assert loaded.serve(tf.zeros((2, 28, 28, 1))).shape == (2, 10)


FOLDER_CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict(dict(
        config_format=1, dataset="folder:PATH", train_split="train", validation_split="test", image_size=16,
        augmentation="inception_crop", classifier=dict(name="lenet", input_shape=(16, 16, 3), num_classes=3),
        method=dict(name="natural_training"), optimizer=dict(name="sgd", learning_rate=0.1), batch_size=8, epochs=1,
    ))
"""


@pytest.mark.slow
def test_a_folder_of_images(run, image_folder, tmp_path):
    """The evaluation takes the size of the images from the model."""
    (tmp_path / "config.py").write_text(FOLDER_CONFIG)
    dataset, workdir = f"folder:{image_folder}", tmp_path / "run"
    run("train", f"--config={tmp_path}/config.py", f"--config.dataset={dataset}", f"--workdir={workdir}")
    attack = ["--attack=fgsm", "--epsilon=0.01", f"--output={tmp_path}/report"]
    output = run("evaluate", f"--model={workdir}/best.keras", f"--dataset={dataset}", *attack)
    assert "clean" in output
    record = json.loads((tmp_path / "report" / "record.json").read_text())
    assert record["examples"] == 9
    assert record["dataset"] == f"{dataset} test"


REFUSED = {
    "misspelt field": ("train", [*SMALL, "--config.atack.steps=2", "--workdir=W"], "atack"),
    "wrong value": ("train", [*SMALL, "--config.attack.steps=0", "--workdir=W"], "steps=0"),
    "no config": ("train", ["--workdir=W"], "config"),
    "unknown flag": ("train", [*SMALL, "--workdirr=W"], "workdirr"),
    "data set": ("train", [*SMALL, "--config.dataset=mnist", "--workdir=W"], "tfds build mnist"),
    "no model": ("evaluate", ["--model=no.keras", "--dataset=mnist_small", "--epsilon=0.3", "--output=W"], "no.keras"),
    "attack": (
        "evaluate",
        ["--model=no.keras", "--dataset=mnist_small", "--attack=pdg", "--epsilon=0.3", "--output=W"],
        "attack='pdg'",
    ),
    "export": ("export", ["--model=no.keras", "--output=W"], "no.keras"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_flags_are_named_and_nothing_is_written(run, name, data_dir, tmp_path):
    script, arguments, message = REFUSED[name]
    arguments = [argument.replace("=W", f"={tmp_path}/out") for argument in arguments]
    data = [] if script == "export" else [data_dir]
    errors = run(script, *arguments, *data, exit_code=1)
    lines = [line for line in errors.splitlines() if not line.startswith("Pass --helpshort")]  # a hint of absl's
    assert message in lines[-1]
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_a_mistake_ends_the_process_with_one_line(tmp_path):
    errors = finish(start(*SMALL, "--config.attack.steps=0", f"--workdir={tmp_path}/out"), exit_code=1)
    assert "steps=0" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def start(*arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "launch/train.py", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, exit_code=0):
    """Waits for the end of a process, and returns what it printed."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == exit_code, errors[-2000:]
    return output if exit_code == 0 else errors


def interrupt(arguments, epoch, sent):
    """Starts a run, sends a signal in an epoch, and returns exit code and errors."""
    process = start(*arguments)
    try:
        for line in process.stdout:
            if f"Epoch {epoch}/2" in line:
                break
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(sent)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, errors


def test_an_interrupted_run_ends_with_the_same_weights_bit_for_bit(data_dir, tmp_path):
    """SIGTERM in the first epoch, SIGKILL in the second; the run ends as one that was never interrupted."""
    arguments = [*SMALL, "--config.deterministic=True", "--config.train_split=train[:512]", data_dir]
    exit_code, errors = interrupt([*arguments, f"--workdir={tmp_path}/killed"], 1, signal.SIGTERM)
    assert exit_code == 75
    assert "The same call resumes the run." in errors
    assert "Traceback" not in errors
    interrupt([*arguments, f"--workdir={tmp_path}/killed"], 2, signal.SIGKILL)
    history = (tmp_path / "killed" / "history.csv").read_text().splitlines()
    assert len(history) == 2  # the header and the first epoch: it was in the second
    output = finish(start(*arguments, f"--workdir={tmp_path}/killed"))
    assert "Epoch 1/2" not in output
    finish(start(*arguments, f"--workdir={tmp_path}/whole"))
    killed_model, whole_model = (
        keras.models.load_model(tmp_path / name / "last.keras") for name in ("killed", "whole")
    )
    variables = zip(
        killed_model.variables + killed_model.optimizer.variables,
        whole_model.variables + whole_model.optimizer.variables,
        strict=True,
    )
    for resumed, undisturbed in variables:
        np.testing.assert_array_equal(resumed.numpy(), undisturbed.numpy())
    assert (tmp_path / "killed/history.csv").read_text() == (tmp_path / "whole/history.csv").read_text()

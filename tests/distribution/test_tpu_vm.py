"""The commands for Cloud TPU, as the gcloud reference and the pages that the docstrings name have them."""

import ast
import pathlib
import re
import shlex
import subprocess

import pytest

from keras_robust.tools import tpu_training
from keras_robust.tools.tpu_training import Training
from keras_robust.tools.tpu_vm import TpuVm

ROOT = pathlib.Path(__file__).parents[2]
SETUP = (ROOT / "setup.py").read_text()
PLACE = ["--zone=us-west4-a", "--project=p"]
QUEUED_RESOURCES = ["gcloud", "compute", "tpus", "queued-resources"]
TPU_VM = ["gcloud", "compute", "tpus", "tpu-vm"]


def vm(accelerator="v5e-8", **options):
    return TpuVm(**{"name": "digits", "accelerator": accelerator, "zone": "us-west4-a", "project": "p"} | options)


def remote(command):
    """Returns the shell command that is run on the workers, and which."""
    arguments = dict(word.removeprefix("--").partition("=")[::2] for word in command if word.startswith("--"))
    return arguments["command"], arguments["worker"]


def test_on_demand():
    command = [*TPU_VM, "create", "digits", *PLACE, "--accelerator-type=v5litepod-8", "--version=v2-alpha-tpuv5-lite"]
    assert vm().create() == command
    assert vm(spot=True, create_flags=("--network=n",)).create() == [*command, "--spot", "--network=n"]
    assert vm().state() == [*TPU_VM, "describe", "digits", *PLACE, "--format=value(state)"]
    assert vm().delete() == [*TPU_VM, "delete", "digits", *PLACE, "--quiet"]


def test_queued_resource():
    queued = vm("v5e-64", spot=True, queued=True)
    kind = ["--node-id=digits", "--accelerator-type=v5litepod-64", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"]
    assert queued.create() == [*QUEUED_RESOURCES, "create", "digits", *PLACE, *kind]
    assert queued.state() == [*QUEUED_RESOURCES, "describe", "digits", *PLACE, "--format=value(state.state)"]
    assert queued.delete() == [*QUEUED_RESOURCES, "delete", "digits", *PLACE, "--force", "--quiet"]
    assert queued.ssh("true")[:6] == [*TPU_VM, "ssh", "digits"]


def test_files():
    internal = vm(ssh_flags=("--internal-ip",))
    assert internal.copy_to("a", "b/c") == [*TPU_VM, "scp", "a", "digits:b/c", *PLACE, "--worker=all", "--internal-ip"]
    back = [*TPU_VM, "scp", "digits:a", "b", *PLACE, "--worker=0", "--recurse", "--internal-ip"]
    assert internal.copy_from("a", "b") == back


@pytest.mark.parametrize(
    ("accelerator", "accelerator_type", "runtime_version", "several_hosts"),
    [
        ("v4-8", "v4-8", "tpu-ubuntu2204-base", False),
        ("v4-32", "v4-32", "tpu-ubuntu2204-base", True),
        ("v5e-1", "v5litepod-1", "v2-alpha-tpuv5-lite", False),
        ("v5e-16", "v5litepod-16", "v2-alpha-tpuv5-lite", True),
        ("v5p-8", "v5p-8", "v2-alpha-tpuv5", False),
        ("v5p-384", "v5p-384", "v2-alpha-tpuv5", True),
        ("v6e-8", "v6e-8", "v2-alpha-tpuv6e", False),
    ],
)
def test_accelerators(accelerator, accelerator_type, runtime_version, several_hosts):
    assert vm(accelerator).several_hosts == several_hosts
    assert vm(accelerator).create()[-2:] == [f"--accelerator-type={accelerator_type}", f"--version={runtime_version}"]


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"accelerator": "v9-8"}, "accelerator='v9-8'"),
        ({"accelerator": "v5e"}, "accelerator='v5e'"),
        ({"accelerator": "v5e-12"}, r"\(1, 4, 8, .* accelerator='v5e-12'"),
        ({"accelerator": "v4-12"}, "multiples of 8 up to 4096. Received: accelerator='v4-12'"),
        ({"accelerator": "v6e-16"}, "accelerator='v6e-16'"),
        ({"zone": ""}, "zone=''"),
        ({"project": ""}, "project=''"),
        ({"name": "My TPU"}, "name='My TPU'"),
    ],
)
def test_bad_vm(options, received):
    with pytest.raises(ValueError, match=received):
        vm(**options)


@pytest.mark.parametrize(
    ("options", "fields", "received"),
    [
        ({}, {"config": "no.py"}, "config='no.py'"),
        ({}, {"workdir": ""}, "workdir=''"),
        ({"spot": True}, {"workdir": "runs/mine"}, "workdir='runs/mine'"),
        ({"accelerator": "v5e-64"}, {"workdir": "runs/mine"}, "workdir='runs/mine' with accelerator='v5e-64'"),
        ({"accelerator": "v5e-64"}, {"data_dir": None}, "data_dir=None with accelerator='v5e-64'"),
    ],
)
def test_bad_training(training, options, fields, received):
    arguments = {"config": training.config, "workdir": training.workdir, "data_dir": training.data_dir} | fields
    with pytest.raises(ValueError, match=received):
        Training(**arguments).check(vm(**options))


def test_requirements_are_those_of_the_package_but_tensorflow():
    declared = ast.literal_eval(re.search(r"install_requires=(\[.*?\n    \])", SETUP, re.DOTALL)[1])
    needed = tpu_training.requirements(SETUP)
    (left_out,) = set(declared) - set(needed)
    assert left_out.startswith("tensorflow>=")
    assert set(needed) < set(declared)
    with pytest.raises(ValueError, match=r"Received: 'import x'"):
        tpu_training.requirements("import x")


def test_one_build_of_tensorflow_is_installed():
    command, worker = remote(tpu_training.install(vm(), "a.tar.gz", ["keras>=3.12", "b[c]>=1"]))
    assert worker == "all"
    words = shlex.split(command)
    assert {"tensorflow-tpu==2.20.0", "keras>=3.12", "b[c]>=1", "--no-deps"} <= set(words)
    assert not [word for word in words if re.match(r"tensorflow([<>=]|$)", word)]
    assert "oauth2client" not in words
    assert "oauth2client" in shlex.split(remote(tpu_training.install(vm("v5e-64"), "a.tar.gz", []))[0])


def test_one_host_owns_its_chips(training):
    command, worker = remote(training.train(vm()))
    assert worker == "0"
    words = shlex.split(command)
    assert words[words.index("launch/train.py") + 1 :] == [
        *("--strategy=tpu", "--tpu=local", "--config=configs/mine.py:fast"),
        *("--workdir=gs://b/runs/mine", "--data_dir=gs://b/tfds", "--config.epochs=5"),
    ]
    assert "NEXT_PLUGGABLE_DEVICE_USE_C_API=true" in words
    assert "TPU_LOAD_LIBRARY" not in command


def test_of_several_hosts_one_drives_the_servers_of_all(training):
    command, worker = remote(training.train(vm("v5e-64")))
    assert worker == "0"
    assert {"TPU_LOAD_LIBRARY=0", "TPU_NAME=digits", "--tpu=digits"} <= set(shlex.split(command))
    assert "PLUGGABLE" not in command  # the servers own the chips
    command, worker = remote(tpu_training.serve(vm("v5e-64")))
    assert worker == "all"
    assert "NEXT_PLUGGABLE_DEVICE_USE_C_API=true" in command
    assert "start_grpc_tpu_worker" in command


def test_remote_commands_are_shell_commands(training):
    slice_of_hosts = vm("v5e-64")
    commands = [
        tpu_training.install(slice_of_hosts, "a.tar.gz", tpu_training.requirements(SETUP)),
        tpu_training.serve(slice_of_hosts),
        training.train(slice_of_hosts),
    ]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", remote(command)[0]], check=True)


def test_results_of_a_bucket_and_of_a_vm():
    in_bucket = Training("c.py", "gs://b/runs/mine/").fetch(vm(), "out")
    assert in_bucket[-1] == ["gcloud", "storage", "rsync", "gs://b/runs/mine/", "out/mine", "--recursive"]
    of_vm = Training("c.py", "runs/mine").fetch(vm(), "out")
    assert of_vm == [["mkdir", "-p", "out"], vm().copy_from("keras_robust/runs/mine", "out")]

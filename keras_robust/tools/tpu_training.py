"""A training run on TPU VMs: the commands that install, train and fetch. None was run on a TPU here.

As in `tpu_vm`, every function returns commands and runs nothing.

One host: the process that trains owns the chips, with the variables that Keras's guide sets for TensorFlow on a TPU VM
(https://keras.io/keras_rs/examples/distributed_embedding_tf).

Several hosts: one process, on worker 0, drives a TensorFlow server on every host. It must not take the chips itself
(TPU_LOAD_LIBRARY=0), and finds the servers by the name of the TPU. So does Google's recipe for TensorFlow on a v5p
slice (https://github.com/AI-Hypercomputer/tpu-recipes, training/v5p/DLRM-V2-Tensorflow), with the servers of the
runtime version tpu-vm-tf-2.17.0-pod-pjrt, which must be of the client's TensorFlow. Here they are started from the
client's environment, as https://github.com/tensorflow/tpu/tree/master/tools/grpc_tpu_worker describes for
dependencies of one's own and calls experimental, with the script that tensorflow-tpu installs for it.
"""

import ast
import dataclasses
import pathlib
import posixpath
import re
import shlex
from collections.abc import Iterable

from keras_robust.tools.tpu_vm import TpuVm

TENSORFLOW = ("tensorflow-tpu==2.20.0", "libtpu==0.0.14")
"""The newest on PyPI in November 2026, and of the libtpu~=0.0.14 that it requires the version it names.

The libtpu of 2.18 is not on PyPI: there pip needs --find-links=https://storage.googleapis.com/libtpu-tf-releases/index.html.
"""
API_CLIENT = ("google-api-python-client", "oauth2client")
"""Imported by TensorFlow to find the hosts of a TPU by its name."""
PYTHON = "3.11"
"""The oldest that keras_robust takes; Ubuntu 22.04, of tpu-ubuntu2204-base, has 3.10."""
FOLDER = "keras_robust"
"""Of the repository, in the home directory of the TPU VM."""
ENVIRONMENT = "venv"
"""In `FOLDER`."""
LIBTPU = f"$HOME/{FOLDER}/{ENVIRONMENT}/lib/python{PYTHON}/site-packages/libtpu/libtpu.so"
LIBTPU_VARIABLES = (
    "NEXT_PLUGGABLE_DEVICE_USE_C_API=true",
    f"TF_PLUGGABLE_DEVICE_LIBRARY_PATH={LIBTPU}",
    f"TPU_LIBRARY_PATH={LIBTPU}",
)
"""What makes TensorFlow use the libtpu that is installed beside it. The last is what importing libtpu sets."""
SERVER_PORT = 8470


def archive(repository: str, path: str) -> list[str]:
    """Packs the last commit of a repository into a file, in a folder keras_robust."""
    options = ["--format=tar.gz", f"--prefix={FOLDER}/", f"--output={path}"]
    return ["git", "-C", repository, "archive", *options, "HEAD"]


def requirements(setup: str) -> list[str]:
    """Returns what a package needs but TensorFlow: `tensorflow` and `tensorflow-tpu` are two builds of one package.

    Args:
        setup: text of its setup.py, where `install_requires` is a list of strings.

    Raises:
        ValueError: if it is not.
    """
    for node in ast.walk(ast.parse(setup)):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            return [item for item in ast.literal_eval(node.value) if re.split(r"[^\w.-]", item)[0] != "tensorflow"]
    raise ValueError(f"A setup.py lists install_requires. Received: {setup[:200]!r}")


def install(vm: TpuVm, archive_name: str, packages: Iterable[str]) -> list[str]:
    """Unpacks the archive on all workers; installs TensorFlow, the packages, and keras_robust without its requirements.

    uv brings the Python that Ubuntu lacks: https://docs.astral.sh/uv/pip/environments.
    """
    environment = f"{FOLDER}/{ENVIRONMENT}"
    pip = f"{environment}/bin/python -m pip install --quiet"
    wanted = shlex.join([*TENSORFLOW, *(API_CLIENT if vm.several_hosts else ()), *packages])
    steps = [
        f"tar -xzf {archive_name}",
        "python3 -m pip install --quiet --user --upgrade uv",
        f"(test -x {environment}/bin/python || python3 -m uv venv --seed --python={PYTHON} {environment})",
        f"{pip} {wanted}",
        f"{pip} --no-deps --editable {FOLDER}",
    ]
    return vm.ssh(" && ".join(steps))


def serve(vm: TpuVm) -> list[str]:
    """Starts TensorFlow's server anew on all workers, and waits until each of them listens.

    The unit is that of `start_grpc_tpu_service` of tensorflow-tpu, which expects the server in another folder.
    """
    unit = "grpc_tpu_worker"
    properties = ("Restart=on-failure", "LimitMEMLOCK=infinity", "EnvironmentFile=-/home/tpu-runtime/tpu-env")
    options = [
        f"--unit={unit}",
        "--collect",
        "--uid=$(id -un)",
        *(f"--property={item}" for item in properties),
        *(f"--setenv={item}" for item in LIBTPU_VARIABLES),
    ]
    steps = [
        f"(sudo systemctl stop tpu-runtime {unit} || true)",
        f"sudo systemd-run {' '.join(options)} $HOME/{FOLDER}/{ENVIRONMENT}/bin/start_grpc_tpu_worker",
        f'timeout 300 bash -c "until (echo > /dev/tcp/localhost/{SERVER_PORT}) 2> /dev/null; do sleep 1; done"',
    ]
    return vm.ssh(" && ".join(steps))


@dataclasses.dataclass(frozen=True)
class Training:
    """A call of launch/train.py on a TPU VM.

    Attributes:
        config: as of its flag: a file of this machine, and after a colon a variant, where it has some.
        workdir: a folder in a bucket, gs://...; on one host that is not taken away, also one of the VM.
        data_dir: a folder in a bucket or of the VM; None is TFDS's own.
        arguments: further ones.
    """

    config: str
    workdir: str
    data_dir: str | None = None
    arguments: tuple[str, ...] = ()

    def check(self, vm: TpuVm) -> None:
        """Checks that the run can go on where the VM is taken away, and that all hosts see its files.

        Raises:
            ValueError: if it cannot, or there is no such config.
        """
        if not pathlib.Path(self._config_file).is_file():
            raise ValueError(f"There is no such config. Received: config={self.config!r}")
        if not self.workdir:
            raise ValueError(f"A run has a workdir. Received: workdir={self.workdir!r}")
        if vm.spot and not in_bucket(self.workdir):
            raise ValueError(
                "What a spot VM writes on its disk goes with it: the workdir is gs://BUCKET/FOLDER. "
                f"Received: workdir={self.workdir!r}"
            )
        for field in ("workdir", "data_dir") if vm.several_hosts else ():
            if not in_bucket(getattr(self, field) or ""):
                raise ValueError(
                    "Several hosts share the folders gs://BUCKET/FOLDER alone. "
                    f"Received: {field}={getattr(self, field)!r} with accelerator={vm.accelerator!r}"
                )

    def copy_config(self, vm: TpuVm) -> list[str]:
        """Copies the config as it is on this machine, committed or not."""
        return vm.copy_to(self._config_file, f"{FOLDER}/{self._remote_config}")

    def train(self, vm: TpuVm) -> list[str]:
        """Trains, or goes on with the run.

        gcloud starts a command again where the connection breaks; `flock` lets the first one end before.
        """
        _, colon, variant = self.config.partition(":")
        arguments = [
            "--strategy=tpu",
            f"--tpu={vm.name if vm.several_hosts else 'local'}",
            f"--config={self._remote_config}{colon}{variant}",
            f"--workdir={self.workdir}",
            *([f"--data_dir={self.data_dir}"] if self.data_dir else []),
            *self.arguments,
        ]
        variables = ("TPU_LOAD_LIBRARY=0", f"TPU_NAME={vm.name}") if vm.several_hosts else LIBTPU_VARIABLES
        program = f"env {' '.join(variables)} {ENVIRONMENT}/bin/python -u launch/train.py {shlex.join(arguments)}"
        return vm.ssh(f"cd {FOLDER} && flock train.lock {program}", worker="0")

    def fetch(self, vm: TpuVm, output: str) -> list[list[str]]:
        """Copies the workdir into a folder of this machine, under its own name."""
        name = posixpath.basename(self.workdir.rstrip("/"))
        if in_bucket(self.workdir):
            target = posixpath.join(output, name)
            return [["mkdir", "-p", target], ["gcloud", "storage", "rsync", self.workdir, target, "--recursive"]]
        return [["mkdir", "-p", output], vm.copy_from(posixpath.join(FOLDER, self.workdir), output)]

    @property
    def _config_file(self) -> str:
        return self.config.partition(":")[0]

    @property
    def _remote_config(self) -> str:
        return f"configs/{pathlib.PurePath(self._config_file).name}"


def in_bucket(path: str) -> bool:
    """Returns whether a path is of Cloud Storage."""
    return path.startswith("gs://")

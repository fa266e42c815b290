"""Commands that install, train and fetch results on TPU VMs. We have not run any of them on a TPU.

As in `tpu_vm`, functions return commands and run nothing.

One host: the training process owns the chips. Its environment variables are those that Keras's guide sets for
TensorFlow on a TPU VM (https://keras.io/keras_rs/examples/distributed_embedding_tf).

Several hosts: one process on worker 0 controls a TensorFlow server on every host. This process must not take the chips
itself (TPU_LOAD_LIBRARY=0). It finds the servers by the name of the TPU. Google's recipe for TensorFlow on a v5p slice
works in the same way (https://github.com/AI-Hypercomputer/tpu-recipes, training/v5p/DLRM-V2-Tensorflow). It uses the
servers of the runtime version tpu-vm-tf-2.17.0-pod-pjrt, which must have the same TensorFlow as the client. Here, the
servers start from the client's environment, with a script that tensorflow-tpu installs for this purpose.
https://github.com/tensorflow/tpu/tree/master/tools/grpc_tpu_worker describes this way for users with their own
dependencies, and calls it experimental.
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
"""The newest tensorflow-tpu on PyPI in November 2026. It requires libtpu~=0.0.14; we use exactly this version.

The libtpu of tensorflow-tpu 2.18 is not on PyPI. To install it, pip needs
--find-links=https://storage.googleapis.com/libtpu-tf-releases/index.html.
"""
API_CLIENT = ("google-api-python-client", "oauth2client")
"""Packages that TensorFlow imports to find the hosts of a TPU by its name."""
PYTHON = "3.11"
"""The oldest Python that keras_robust supports. Ubuntu 22.04 (tpu-ubuntu2204-base) only has 3.10."""
FOLDER = "keras_robust"
"""Folder of the repository, in the home directory of the TPU VM."""
ENVIRONMENT = "venv"
"""Folder of the virtual environment, in `FOLDER`."""
LIBTPU = f"$HOME/{FOLDER}/{ENVIRONMENT}/lib/python{PYTHON}/site-packages/libtpu/libtpu.so"
LIBTPU_VARIABLES = (
    "NEXT_PLUGGABLE_DEVICE_USE_C_API=true",
    f"TF_PLUGGABLE_DEVICE_LIBRARY_PATH={LIBTPU}",
    f"TPU_LIBRARY_PATH={LIBTPU}",
)
"""Environment variables that make TensorFlow use the installed libtpu. `import libtpu` would set only the last one."""
SERVER_PORT = 8470


def archive(repository: str, path: str) -> list[str]:
    """Packs the last commit of a repository into a file. In the archive, its folder is keras_robust."""
    options = ["--format=tar.gz", f"--prefix={FOLDER}/", f"--output={path}"]
    return ["git", "-C", repository, "archive", *options, "HEAD"]


def requirements(setup: str) -> list[str]:
    """Returns the requirements of a package except `tensorflow`, because `tensorflow-tpu` is another build of it.

    Args:
        setup: text of setup.py. Its `install_requires` must be a list of strings.

    Raises:
        ValueError: if there is no such list.
    """
    for node in ast.walk(ast.parse(setup)):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            return [item for item in ast.literal_eval(node.value) if re.split(r"[^\w.-]", item)[0] != "tensorflow"]
    raise ValueError(f"setup.py must list install_requires. Received: {setup[:200]!r}")


def install(vm: TpuVm, archive_name: str, packages: Iterable[str]) -> list[str]:
    """Unpacks the archive on all workers. Installs TensorFlow, the packages, and keras_robust without its requirements.

    uv installs the Python version that Ubuntu lacks: https://docs.astral.sh/uv/pip/environments.
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
    """Restarts TensorFlow's server on all workers, and waits until each server listens.

    The systemd unit is that of `start_grpc_tpu_service` of tensorflow-tpu. This script itself cannot be used, because
    it expects the server in another folder.
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
        config: a config file on this machine, and a variant after a colon if the file has variants.
        workdir: folder of the run in a bucket, gs://BUCKET/FOLDER. It may be on the VM if this has one host and is no
            spot VM.
        data_dir: folder of prepared data sets, in a bucket or on the VM. None means TFDS's default. With several hosts,
            it must be in a bucket.
        arguments: further arguments of launch/train.py.
    """

    config: str
    workdir: str
    data_dir: str | None = None
    arguments: tuple[str, ...] = ()

    def check(self, vm: TpuVm) -> None:
        """Checks that the run can resume after the VM is taken away, and that all hosts can read its files.

        Raises:
            ValueError: if the config file does not exist, there is no workdir, or a folder must be in a bucket and is
                not.
        """
        if not pathlib.Path(self._config_file).is_file():
            raise ValueError(f"config must be an existing file. Received: config={self.config!r}")
        if not self.workdir:
            raise ValueError(f"A run must have a workdir. Received: workdir={self.workdir!r}")
        if vm.spot and not in_bucket(self.workdir):
            raise ValueError(
                "The workdir of a spot VM must be gs://BUCKET/FOLDER, because its disk is lost when it is taken away. "
                f"Received: workdir={self.workdir!r}"
            )
        for field in ("workdir", "data_dir") if vm.several_hosts else ():
            if not in_bucket(getattr(self, field) or ""):
                raise ValueError(
                    "With several hosts, workdir and data_dir must be gs://BUCKET/FOLDER, because hosts share no disk. "
                    f"Received: {field}={getattr(self, field)!r} with accelerator={vm.accelerator!r}"
                )

    def copy_config(self, vm: TpuVm) -> list[str]:
        """Copies the config file of this machine, whether it is committed or not."""
        return vm.copy_to(self._config_file, f"{FOLDER}/{self._remote_config}")

    def train(self, vm: TpuVm) -> list[str]:
        """Trains, or resumes the run.

        gcloud starts the command again if the connection breaks. `flock` makes the second command wait for the first.
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
        """Copies the workdir into a folder of this machine. The copy keeps the workdir's name."""
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
    """Returns whether a path is in Cloud Storage."""
    return path.startswith("gs://")

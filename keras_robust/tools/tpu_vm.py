"""The gcloud commands that create, connect to and delete TPU VMs of Google Cloud. We have not run any of them.

Every function returns a command as a list of words, and runs nothing. Flags are those of Google Cloud SDK 528:
https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm and .../compute/tpus/queued-resources.

Runtime versions are those without a framework from https://cloud.google.com/tpu/docs/runtimes. Do not use
`tpu-vm-tf-x.y.z`: they contain a TensorFlow (2.18 when this was written), and `tpu_training` installs another one.
"""

import dataclasses
import re
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Generation:
    """A generation of TPUs.

    Attributes:
        prefix: first part of the names of its accelerator types.
        runtime_version: runtime version without a framework.
        sizes: sizes of its slices, in TensorCores for v4 and v5p (two per chip), in chips for v5e and v6e.
        several_hosts: whether `start_grpc_tpu_worker` of tensorflow-tpu 2.20 knows its slices of several hosts.
    """

    prefix: str
    runtime_version: str
    sizes: Sequence[int]
    several_hosts: bool


LARGEST_SIZE_OF_ONE_HOST = 8
GENERATIONS = {
    "v4": Generation("v4", "tpu-ubuntu2204-base", range(8, 4096 + 1, 8), True),
    "v5e": Generation("v5litepod", "v2-alpha-tpuv5-lite", (1, 4, 8, 16, 32, 64, 128, 256), True),
    "v5p": Generation("v5p", "v2-alpha-tpuv5", range(8, 12288 + 1, 8), True),
    "v6e": Generation("v6e", "v2-alpha-tpuv6e", (1, 4, 8, 16, 32, 64, 128, 256), False),
}
"""From https://cloud.google.com/tpu/docs/v4, .../v5e, .../v5p, .../v6e and .../runtimes."""

READY_STATES = ("READY", "ACTIVE")
LOST_STATES = ("PREEMPTED", "TERMINATED", "SUSPENDING", "SUSPENDED", "FAILED")
"""States that a node or queued resource does not leave until it is deleted: https://cloud.google.com/tpu/docs/spot."""


@dataclasses.dataclass(frozen=True)
class TpuVm:
    """A TPU VM with one host, or a slice with several hosts.

    Attributes:
        name: name of the node, and of the queued resource if there is one.
        accelerator: a generation of `GENERATIONS` and a size, such as "v5e-8".
        zone: zone of Google Cloud.
        project: project of Google Cloud.
        spot: whether it is a spot VM, which is cheaper but may be taken away at any time.
        queued: whether to request a queued resource, which waits until there is capacity.
        runtime_version: runtime version of the VM. None means that of the generation.
        create_flags: further flags for gcloud's create, such as "--network=NAME".
        ssh_flags: further flags for gcloud's ssh and scp, such as "--internal-ip".

    Raises:
        ValueError: if the name, the accelerator, the zone or the project is wrong.
    """

    name: str
    accelerator: str
    zone: str
    project: str
    spot: bool = False
    queued: bool = False
    runtime_version: str | None = None
    create_flags: tuple[str, ...] = ()
    ssh_flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", self.name):
            raise ValueError(
                "name must be at most 63 lowercase letters, digits and hyphens, begin with a letter, and not end with "
                f"a hyphen. Received: name={self.name!r}"
            )
        for field in ("zone", "project"):
            if not getattr(self, field):
                raise ValueError(f"A TPU VM must have a zone and a project. Received: {field}={getattr(self, field)!r}")
        generation, size = _generation_and_size(self.accelerator)
        if size > LARGEST_SIZE_OF_ONE_HOST and not generation.several_hosts:
            raise ValueError(
                "The server of tensorflow-tpu 2.20 does not support slices with several hosts of this generation. Use "
                f"a size of at most {LARGEST_SIZE_OF_ONE_HOST}. Received: accelerator={self.accelerator!r}"
            )

    @property
    def accelerator_type(self) -> str:
        """Name of the accelerator in gcloud, such as "v5litepod-8"."""
        generation, size = _generation_and_size(self.accelerator)
        return f"{generation.prefix}-{size}"

    @property
    def several_hosts(self) -> bool:
        """Whether it is a slice with several hosts."""
        return _generation_and_size(self.accelerator)[1] > LARGEST_SIZE_OF_ONE_HOST

    @property
    def ready_state(self) -> str:
        """The state that `state` prints when the VM can be used."""
        return "ACTIVE" if self.queued else "READY"

    def create(self) -> list[str]:
        """Creates the VM. If it is queued, this only requests it, and does not wait for it."""
        version = self.runtime_version or _generation_and_size(self.accelerator)[0].runtime_version
        accelerator_type = f"--accelerator-type={self.accelerator_type}"
        spot = ["--spot"] if self.spot else []
        if self.queued:
            options = [f"--node-id={self.name}", accelerator_type, f"--runtime-version={version}"]
        else:
            options = [accelerator_type, f"--version={version}"]
        return [*self._resource("create"), *options, *spot, *self.create_flags]

    def state(self) -> list[str]:
        """Prints the state of the VM. Fails with NOT_FOUND if there is no VM of that name."""
        return [*self._resource("describe"), f"--format=value({'state.state' if self.queued else 'state'})"]

    def delete(self) -> list[str]:
        """Deletes the VM. If it is queued, this deletes the queued resource and its node."""
        return [*self._resource("delete"), *(["--force"] if self.queued else []), "--quiet"]

    def ssh(self, command: str, *, worker: str = "all") -> list[str]:
        """Runs a shell command on "all" workers, or on one given by its number. Ends with the command's exit code."""
        keep_alive = "--ssh-flag=-oServerAliveInterval=30"
        return [
            *self._tpu_vm("ssh", self.name),
            f"--worker={worker}",
            *self.ssh_flags,
            keep_alive,
            f"--command={command}",
        ]

    def copy_to(self, source: str, target: str) -> list[str]:
        """Copies a file into the home directory of all workers."""
        return [*self._tpu_vm("scp", source, f"{self.name}:{target}"), "--worker=all", *self.ssh_flags]

    def copy_from(self, source: str, target: str) -> list[str]:
        """Copies a folder from the home directory of worker 0."""
        return [*self._tpu_vm("scp", f"{self.name}:{source}", target), "--worker=0", "--recurse", *self.ssh_flags]

    def _resource(self, verb: str) -> list[str]:
        group = "queued-resources" if self.queued else "tpu-vm"
        return ["gcloud", "compute", "tpus", group, verb, self.name, *self._place()]

    def _tpu_vm(self, verb: str, *names: str) -> list[str]:
        return ["gcloud", "compute", "tpus", "tpu-vm", verb, *names, *self._place()]

    def _place(self) -> list[str]:
        return [f"--zone={self.zone}", f"--project={self.project}"]


def _generation_and_size(accelerator: str) -> tuple[Generation, int]:
    name, _, size = accelerator.partition("-")
    generation = GENERATIONS.get(name)
    if generation is None:
        known = ", ".join(f"{generation}-SIZE" for generation in GENERATIONS)
        raise ValueError(f"accelerator must be one of {known}. Received: accelerator={accelerator!r}")
    if not size.isdecimal() or int(size) not in generation.sizes:
        sizes = generation.sizes
        known = f"multiples of {sizes[0]} up to {sizes[-1]}" if isinstance(sizes, range) else f"{tuple(sizes)}"
        raise ValueError(f"The size of {name} must be one of: {known}. Received: accelerator={accelerator!r}")
    return generation, int(size)

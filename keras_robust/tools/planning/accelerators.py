"""Published data of accelerators: peak speed without sparsity, memory, and links between devices."""

import dataclasses
import re
from collections.abc import Sequence

from keras_robust.tools.planning.costs import Operation

GIGA, TERA = 10**9, 10**12
NETWORK = 12.5 * GIGA
"""Bytes per second between machines, in each direction. This assumes 100 Gbit/s per machine."""


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One device, as its vendor describes it.

    Attributes:
        name: name in tables.
        flops: peak floating-point operations per second, without sparsity, for each dtype in which layers compute.
        bandwidth: bytes per second between the device and its memory.
        memory: size of its memory in bytes.
        link: bytes per second to the other devices of its group, in each direction.
        group: largest number of devices that such links connect: the GPUs of a machine, the chips of a TPU pod.
        source: where the numbers are published.
    """

    name: str
    flops: dict[str, float]
    bandwidth: float
    memory: float
    link: float
    group: int
    source: str

    @property
    def automatic_dtype(self) -> str:
        """The dtype that `compute_dtype="auto"` of an attack means on this device."""
        return "bfloat16" if "bfloat16" in self.flops else "float32"

    def seconds(self, operations: Sequence[Operation], utilization: float) -> float:
        """Returns how many seconds the operations of a pass take, one after the other.

        An operation takes as long as its arithmetic or its memory traffic, whichever is longer.

        Args:
            operations: the operations of a pass.
            utilization: share of the peaks that programs reach, in (0, 1].

        Raises:
            ValueError: if an operation multiplies in a dtype for which the device has no peak.
        """
        lacking = sorted({each.dtype for each in operations if each.flops} - set(self.flops))
        if lacking:
            raise ValueError(
                f"On {self.name}, classifier and attack must compute in one of {sorted(self.flops)}. "
                f"Received: computation in {lacking}"
            )
        arithmetic = [each.flops / self.flops[each.dtype] if each.flops else 0.0 for each in operations]
        traffic = [each.traffic / self.bandwidth for each in operations]
        return sum(map(max, arithmetic, traffic)) / utilization


@dataclasses.dataclass(frozen=True)
class Devices:
    """A number of devices of one kind. Each accelerator trains on its part of a batch.

    Attributes:
        accelerator: the kind. None means the CPU cores of this machine, which train together as one replica and are
            measured.
        count: number of devices or CPU cores, at least 1.
    """

    accelerator: Accelerator | None
    count: int

    @property
    def replicas(self) -> int:
        """Number of parts into which a batch is divided."""
        return self.count if self.accelerator else 1

    def __str__(self) -> str:
        return f"{self.count} x {self.accelerator.name if self.accelerator else 'CPU core of this machine'}"

    def all_reduce_seconds(self, size: float) -> float:
        """Returns how many seconds it takes to add up `size` bytes over all devices.

        The devices of each group form a ring, and the groups form another ring. In a ring of n, each member sends
        2 (n - 1) / n times the bytes (Patarasuk & Yuan, 2009).
        """
        if self.accelerator is None:
            return 0.0
        inside = min(self.count, self.accelerator.group)
        groups = -(-self.count // self.accelerator.group)
        seconds = 2 * (inside - 1) / inside * size / self.accelerator.link
        return seconds + 2 * (groups - 1) / groups * size / NETWORK


def _gpu(
    name: str, single: float, half: float, bfloat: bool, bandwidth: float, memory: float, link: float, source: str
) -> Accelerator:
    """Returns a GPU of a machine with eight GPUs. Peaks are in TFLOP/s, sizes in GB, rates in GB/s."""
    flops = {"float32": single * TERA, "float16": half * TERA} | ({"bfloat16": half * TERA} if bfloat else {})
    return Accelerator(name, flops, bandwidth * GIGA, memory * GIGA, link * GIGA, 8, source)


def _tpu(name: str, peak: float, bandwidth: float, memory: float, link: float, group: int, source: str) -> Accelerator:
    """Returns a TPU chip. By default, a TPU multiplies float32 numbers in bfloat16."""
    flops = {"float32": peak * TERA, "bfloat16": peak * TERA}
    return Accelerator(name, flops, bandwidth * GIGA, memory * GIGA, link * GIGA, group, source)


# On Ampere and later, the peak in float32 is that of TF32, because TensorFlow multiplies float32 in TF32 there by
# default. Some vendors give the speed of links as the sum of both directions. Here it is that of one direction.
_DATA_SHEETS = (
    _gpu("V100-16GB", 15.7, 125, False, 900, 16, 150, "NVIDIA V100 data sheet (2020), SXM2"),
    _gpu("V100-32GB", 15.7, 125, False, 900, 32, 150, "NVIDIA V100 data sheet (2020), SXM2"),
    _gpu("A100-40GB", 156, 312, True, 1555, 40, 300, "NVIDIA A100 data sheet (2021), SXM4"),
    _gpu("A100-80GB", 156, 312, True, 2039, 80, 300, "NVIDIA A100 data sheet (2021), SXM4"),
    _gpu(
        "H100",
        494.5,
        989,
        True,
        3350,
        80,
        450,
        "NVIDIA H100 data sheet (2023), SXM5, half of the numbers with sparsity",
    ),
    _gpu(
        "H200",
        494.5,
        989,
        True,
        4800,
        141,
        450,
        "NVIDIA H200 data sheet (2024), SXM5, half of the numbers with sparsity",
    ),
    _gpu("L4", 60, 121, True, 300, 24, 32, "NVIDIA L4 data sheet (2023), half of the numbers with sparsity; PCIe 4.0"),
    _gpu("T4", 8.1, 65, False, 300, 16, 16, "NVIDIA T4 data sheet (2019); PCIe 3.0"),
    _tpu("TPU v2", 46, 700, 16, 248, 256, "Jouppi et al. (2020), CACM 63 (7)"),
    _tpu("TPU v3", 123, 900, 32, 328, 1024, "cloud.google.com/tpu/docs/v3; links: Jouppi et al. (2020)"),
    _tpu("TPU v4", 275, 1200, 32, 300, 4096, "cloud.google.com/tpu/docs/v4"),
    _tpu("TPU v5e", 197, 819, 16, 200, 256, "cloud.google.com/tpu/docs/v5e"),
    _tpu("TPU v5p", 459, 2765, 95, 600, 8960, "cloud.google.com/tpu/docs/v5p"),
    _tpu("TPU v6e", 918, 1638, 32, 400, 256, "cloud.google.com/tpu/docs/v6e"),
)
ACCELERATORS = {accelerator.name.lower().replace(" ", "-"): accelerator for accelerator in _DATA_SHEETS}
CORES_PER_CHIP = {"tpu-v2": 2, "tpu-v3": 2, "tpu-v4": 2, "tpu-v5p": 2}
"""TensorCores per chip of TPUs whose slices Google names by the number of TensorCores, not of chips."""


def parse_devices(text: str) -> Devices:
    """Returns the devices that a text names, such as "8xH100", "tpu-v5e-64" (a slice) or "2xcpu".

    Raises:
        ValueError: if the text has another form, names an unknown accelerator, or means less than one chip or a
            fraction of a chip.
    """
    match = re.fullmatch(r"(?P<count>\d+)x(?P<name>.+)|(?P<tpu>tpu-v\w+)-(?P<size>\d+)", text.lower())
    name = (match["name"] or match["tpu"]) if match else None
    if match is None or (name != "cpu" and name not in ACCELERATORS):
        raise ValueError(
            f"accelerators must be a number and a name, such as 8xH100 or 2xcpu, or a slice such as tpu-v5e-64. The "
            f"names are {[*ACCELERATORS, 'cpu']}. Received: accelerators={text!r}"
        )
    cores = CORES_PER_CHIP.get(name, 1) if match["tpu"] else 1
    count = int(match["count"] or match["size"])
    if count < 1 or count % cores:
        raise ValueError(f"accelerators must be a whole number of chips, at least 1. Received: accelerators={text!r}")
    return Devices(ACCELERATORS.get(name), count // cores)

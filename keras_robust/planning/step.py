"""The parts of a training step on one device, and how long each takes."""

import dataclasses
from collections.abc import Sequence

import keras

from keras_robust.methods import RobustModel
from keras_robust.planning.accelerators import Devices
from keras_robust.planning.measurement import measure
from keras_robust.planning.memory import bytes_of
from keras_robust.planning.operations import Cost, Operation, cost_of
from keras_robust.planning.passes import ATTACK, UPDATE, Pass


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a training step on one device.

    Attributes:
        name: "attack", "update" or "all-reduce".
        work: what is run, in words.
        flops: floating-point operations.
        traffic: bytes read from and written to memory; in an all-reduce, bytes that are added up over the devices.
        seconds: how long it takes.
    """

    name: str
    work: str
    flops: float
    traffic: float
    seconds: float


class Timing:
    """What passes cost and how long they take; those that differ only in their number are looked at once.

    Args:
        passes: all that will be asked for.
        optimizer: built; see `measure`.
        devices: where they run.
        utilization: share of the peaks that is reached.

    Raises:
        ValueError: if a pass multiplies in a dtype for which the accelerator has no peak.
    """

    def __init__(
        self, passes: Sequence[Pass], optimizer: keras.optimizers.Optimizer, devices: Devices, utilization: float
    ) -> None:
        self.devices = devices
        self.utilization = utilization
        self._costs = {one: cost_of(one) for one in dict.fromkeys(map(_once, passes))}
        if devices.accelerator is None:
            seconds = measure([*self._costs], [*self._costs.values()], optimizer)
        else:
            seconds = [self.seconds_of(cost.operations) for cost in self._costs.values()]
        self._seconds = dict(zip(self._costs, seconds, strict=True))

    def cost(self, one: Pass) -> Cost:
        """Returns what a pass costs, run once."""
        return self._costs[_once(one)]

    def seconds(self, one: Pass) -> float:
        """Returns how long a pass takes, run once."""
        return self._seconds[_once(one)]

    def seconds_of(self, operations: Sequence[Operation]) -> float:
        """Returns how long operations take on an accelerator; on a CPU 0, as they are in what was measured."""
        accelerator = self.devices.accelerator
        return accelerator.seconds(operations, self.utilization) if accelerator else 0.0


def parts_of_step(model: RobustModel, passes: Sequence[Pass], timing: Timing) -> list[Part]:
    """Returns the attack (where there is one), the update and the all-reduce (where there are several devices).

    Args:
        model: compiled, its optimizer built.
        passes: of a training step.
        timing: of them.
    """
    attack, update = (_part(name, [one for one in passes if one.part == name], timing) for name in (ATTACK, UPDATE))
    parts = [attack] if attack.work else []
    gradients = bytes_of(model.trainable_variables)
    # The optimizer reads the gradients, and reads and writes the weights and its own variables.
    optimizer = Operation(0, 3 * gradients + 2 * bytes_of(model.optimizer.variables), "")
    count = model.updates_per_batch
    traffic = update.traffic + count * optimizer.traffic
    seconds = update.seconds + count * timing.seconds_of([optimizer])
    parts.append(dataclasses.replace(update, traffic=traffic, seconds=seconds))
    if timing.devices.replicas > 1:
        reduced = sum(one.count for one in passes if one.of_weights) * gradients
        work = f"gradients of {timing.devices.replicas} devices"
        parts.append(Part("all-reduce", work, 0, reduced, timing.devices.all_reduce_seconds(reduced)))
    return parts


def _part(name: str, passes: Sequence[Pass], timing: Timing) -> Part:
    return Part(
        name,
        work=", ".join(f"{one.count:.3g} x {one.name} of {one.images} images" for one in passes),
        flops=sum(one.count * timing.cost(one).flops for one in passes),
        traffic=sum(one.count * timing.cost(one).traffic for one in passes),
        seconds=sum(one.count * timing.seconds(one) for one in passes),
    )


def _once(one: Pass) -> Pass:
    """Returns a pass without what says how often and what for: what its cost depends on."""
    return dataclasses.replace(one, part="", count=1)

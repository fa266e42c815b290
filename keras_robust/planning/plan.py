"""What a training run costs before it is started."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_robust.core.checks import check_integer, check_weight
from keras_robust.data import check_batch_size
from keras_robust.planning.accelerators import parse_devices
from keras_robust.planning.examples import count_examples
from keras_robust.planning.measurement import check_cores, memory_of_machine
from keras_robust.planning.memory import Memory, memory_of
from keras_robust.planning.passes import training_passes, validation_passes
from keras_robust.planning.step import Part, Timing, parts_of_step
from keras_robust.planning.table import to_text
from keras_robust.training.build import build_model
from keras_robust.training.config import resolve, steps_of_epoch

UTILIZATION = 0.59
"""Share of the peaks that training reaches: the median of what NVIDIA published of ResNet-50; see docs/planning.md."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training run costs: `str` is a table of it, `save` writes it as JSON.

    Attributes:
        classifier: its name.
        method: its class.
        attack: of training, its name or None.
        devices: in words.
        device_count: of them.
        utilization: share of the published peaks that was assumed; None where passes were measured.
        parameters: weights that are trained.
        batch_size: images of all devices together.
        parts: of a training step on one device.
        memory: on one device.
        epochs: at most; early stopping may end a run before.
        steps_per_epoch: of training.
        validation_steps: per epoch.
        validation_step_seconds: how long one takes.
        price_per_device_hour: in any currency, or None.
    """

    classifier: str
    method: str
    attack: str | None
    devices: str
    device_count: int
    utilization: float | None
    parameters: int
    batch_size: int
    parts: list[Part]
    memory: Memory
    epochs: int
    steps_per_epoch: int
    validation_steps: int
    validation_step_seconds: float
    price_per_device_hour: float | None

    @property
    def step_seconds(self) -> float:
        """How long a training step takes: one part after the other."""
        return sum(part.seconds for part in self.parts)

    @property
    def hours(self) -> float:
        """How long the run takes, validation included."""
        epoch = self.steps_per_epoch * self.step_seconds + self.validation_steps * self.validation_step_seconds
        return self.epochs * epoch / 3600

    @property
    def device_hours(self) -> float:
        """Hours of all devices together."""
        return self.hours * self.device_count

    @property
    def price(self) -> float | None:
        """Of all device hours."""
        return None if self.price_per_device_hour is None else self.price_per_device_hour * self.device_hours

    def __str__(self) -> str:
        return to_text(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data: the attributes, and what follows from them."""
        derived = {name: getattr(self, name) for name in ("step_seconds", "hours", "device_hours", "price")}
        memory = {"total": self.memory.total, "largest_batch": self.memory.largest_batch}
        data = dataclasses.asdict(self)
        return data | derived | {"memory": data["memory"] | memory}

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the plan as JSON."""
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n")


def plan(
    config: Mapping[str, Any],
    accelerators: str,
    *,
    utilization: float = UTILIZATION,
    price_per_device_hour: float | None = None,
    examples: int | None = None,
    validation_examples: int | None = None,
    data_dir: str | None = None,
) -> Plan:
    """Returns what the training run of a config costs.

    Nothing is trained and no data are read. Passes are counted in the method, their operations in the graph that
    TensorFlow makes of the classifier. On accelerators each operation takes as long as its arithmetic or its memory
    traffic takes at a share of the published peaks; on the CPU of this machine the passes are measured. Reading data,
    compiling, writing checkpoints and waiting for other devices are left out.

    Args:
        config: see `training.config`.
        accelerators: such as "8xH100", "tpu-v5e-64" or "2xcpu": see `parse_devices`.
        utilization: share of the peaks that is reached, in (0, 1].
        price_per_device_hour: of one device (a GPU, a TPU chip, a CPU core), in any currency; None leaves it out.
        examples: of the training split; None looks them up: see `count_examples`.
        validation_examples: likewise.
        data_dir: where TFDS keeps its data sets; None is its default.

    Raises:
        ValueError: if the config or an argument is not as it must be, the batch does not divide among the devices, or
            the attack is not one that can be counted.
    """
    config = resolve(config)
    devices = parse_devices(accelerators)
    if devices.accelerator is None:
        check_cores(devices.count)
    check_batch_size(config["batch_size"], devices.replicas)
    if not 0 < utilization <= 1:
        raise ValueError(f"utilization is in (0, 1]. Received: utilization={utilization!r}")
    if price_per_device_hour is not None:
        check_weight("price_per_device_hour", price_per_device_hour)
    examples = _examples(config, "train_split", examples, data_dir)
    validation_examples = _examples(config, "validation_split", validation_examples, data_dir)
    steps_per_pass = max(1, examples // config["batch_size"])
    steps_per_epoch = steps_of_epoch(config, steps_per_pass)
    automatic_dtype = devices.accelerator.automatic_dtype if devices.accelerator else "auto"
    model = build_model(config, steps_per_pass, config["epochs"] * steps_per_epoch, automatic_dtype)
    model.optimizer.build(model.trainable_variables)
    per_device = config["batch_size"] // devices.replicas
    training, validation = training_passes(model, per_device), validation_passes(model, per_device)
    timing = Timing([*training, *validation], model.optimizer, devices, utilization)
    memory = devices.accelerator.memory if devices.accelerator else memory_of_machine()
    return Plan(
        classifier=model.classifier.name,
        method=type(model).__name__,
        attack=model.attack.name if model.attack else None,
        devices=str(devices),
        device_count=devices.count,
        utilization=utilization if devices.accelerator else None,
        parameters=sum(math.prod(variable.shape) for variable in model.trainable_variables),
        batch_size=config["batch_size"],
        parts=parts_of_step(model, training, timing),
        memory=memory_of(model, [timing.cost(one) for one in training], per_device, memory),
        epochs=config["epochs"],
        steps_per_epoch=steps_per_epoch,
        validation_steps=math.ceil(validation_examples / config["batch_size"]),
        validation_step_seconds=sum(one.count * timing.seconds(one) for one in validation),
        price_per_device_hour=price_per_device_hour,
    )


def _examples(config: Mapping[str, Any], split: str, given: int | None, data_dir: str | None) -> int:
    if given is None:
        return count_examples(config["dataset"], config[split], data_dir)
    check_integer("examples" if split == "train_split" else "validation_examples", given)
    return given

"""Plans: predictions of what a training run costs, the sizes of data sets that they need, and their tables."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from keras_robust.core.checks import check_integer, check_weight
from keras_robust.data import check_batch_size, describe
from keras_robust.tools.planning.accelerators import parse_devices
from keras_robust.tools.planning.costs import Memory, memory_of
from keras_robust.tools.planning.passes import image_shape, training_passes, validation_passes
from keras_robust.tools.planning.timing import Part, Timing, check_cores, memory_of_machine, parts_of_step
from keras_robust.training.build import Classifier, build_model
from keras_robust.training.config import resolve, steps_of_epoch

UTILIZATION = 0.59
"""Share of the peaks that training reaches: the median of NVIDIA's published ResNet-50 runs; see docs/planning.md."""
SIZES = {
    "mnist": {"train": 60_000, "test": 10_000},
    "mnist_small": {"train": 10_000, "test": 2_000},
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "svhn_cropped": {"train": 73_257, "test": 26_032, "extra": 531_131},
    "imagenet2012": {"train": 1_281_167, "validation": 50_000},
}
"""Number of examples in each split, from the catalog of TFDS (tensorflow.org/datasets/catalog)."""
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training run costs. `str` returns a table of it, `save` writes it as JSON.

    Attributes:
        classifier: name of the classifier.
        method: name of the method's class.
        attack: name of the attack in training, or None.
        devices: number and name of the devices, in words.
        device_count: number of devices.
        utilization: assumed share of the published peaks; None if passes were measured.
        parameters: number of trained weights.
        batch_size: number of images of all devices together.
        parts: parts of a training step on one device.
        memory: memory on one device.
        epochs: largest number of epochs; early stopping may end the run before.
        steps_per_epoch: training steps per epoch.
        validation_steps: validation steps per epoch.
        validation_step_seconds: seconds of a validation step.
        price_per_device_hour: price in any currency, or None.
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
        """Seconds of a training step. Its parts run one after the other."""
        return sum(part.seconds for part in self.parts)

    @property
    def hours(self) -> float:
        """Hours of the run, including validation."""
        epoch = self.steps_per_epoch * self.step_seconds + self.validation_steps * self.validation_step_seconds
        return self.epochs * epoch / 3600

    @property
    def device_hours(self) -> float:
        """Hours of all devices together."""
        return self.hours * self.device_count

    @property
    def price(self) -> float | None:
        """Price of all device hours, or None."""
        return None if self.price_per_device_hour is None else self.price_per_device_hour * self.device_hours

    def __str__(self) -> str:
        return to_text(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes and the properties as plain data."""
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
    classifier: Classifier | None = None,
) -> Plan:
    """Returns what the training run of a config costs.

    Nothing is trained, and no data are read. The method determines how many passes a step has. The operations of a pass
    are counted in the graph that TensorFlow makes of the classifier. On accelerators, an operation takes as long as its
    arithmetic or its memory traffic at a share of the published peaks. On the CPU of this machine, the passes are
    measured. A plan does not include reading data, compiling, writing checkpoints, and waiting for other devices.

    Args:
        config: see `training.config`.
        accelerators: devices such as "8xH100", "tpu-v5e-64" or "2xcpu": see `parse_devices`.
        utilization: share of the peaks that training reaches, in (0, 1].
        price_per_device_hour: price of one device (a GPU, a TPU chip, a CPU core) in any currency. None leaves out the
            price.
        examples: number of examples in the training split. None looks it up: see `count_examples`.
        validation_examples: number of examples in the validation split. None looks it up.
        data_dir: folder of prepared data sets. None means TFDS's default.
        classifier: replaces the classifier of the config: see `training.train`.

    Raises:
        ValueError: if the config or an argument is wrong, if the batch cannot be divided evenly among the devices, or
            if the passes of the attack or the operations of the classifier cannot be counted.
    """
    config = resolve(config, classifier=classifier)
    devices = parse_devices(accelerators)
    if devices.accelerator is None:
        check_cores(devices.count)
    check_batch_size(config["batch_size"], devices.replicas)
    if not 0 < utilization <= 1:
        raise ValueError(f"utilization must be in (0, 1]. Received: utilization={utilization!r}")
    if price_per_device_hour is not None:
        check_weight("price_per_device_hour", price_per_device_hour)
    examples = _examples(config, "train_split", examples, data_dir)
    validation_examples = _examples(config, "validation_split", validation_examples, data_dir)
    steps_per_pass = max(1, examples // config["batch_size"])
    steps_per_epoch = steps_of_epoch(config, steps_per_pass)
    automatic_dtype = devices.accelerator.automatic_dtype if devices.accelerator else "auto"
    model = build_model(config, steps_per_pass, config["epochs"] * steps_per_epoch, automatic_dtype, classifier)
    image_shape(model.classifier)
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


def count_examples(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> int:
    """Returns the number of examples in a split.

    Args:
        name: a data set of `SIZES`, a folder, or a data set that TFDS has prepared.
        split: split in TFDS's syntax, such as "train[:95%]".
        data_dir: folder of prepared data sets. None means TFDS's default.

    Raises:
        ValueError: if the data set is none of these, or the split is unknown or empty.
    """
    if name not in SIZES:
        return _prepared_size(name, split, data_dir)
    sizes = SIZES[name]
    infos = {
        key: tfds.core.SplitInfo(name=key, shard_lengths=[size], num_bytes=0, filename_template=None)
        for key, size in sizes.items()
    }
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (KeyError, ValueError, AssertionError) as error:
        raise ValueError(
            f"split must be one of {sizes} of {name!r}, or a part of one. Received: split={split!r} ({error})"
        ) from error
    count = 0
    for part in parts:  # None means the beginning or end of the split
        end = sizes[part.splitname] if part.to is None else part.to
        count += end - (part.from_ or 0)
    if count < 1:
        raise ValueError(f"A split must have at least one example. Received: split={split!r} of {name!r} with {sizes}")
    return count


def _prepared_size(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> int:
    try:
        return describe(name, split, data_dir=data_dir).num_examples
    except ValueError as error:
        raise ValueError(
            f"The size is known only of {sorted(SIZES)}, of folders, and of data sets that TFDS has prepared. For "
            f"others, use --examples=N and --validation_examples=M. Received: dataset={name!r} ({error})"
        ) from None


def scaled(value: float, unit: str) -> str:
    """Returns a number with three significant digits and a prefix, such as "46.4 TFLOP"."""
    factor, prefix = next(((factor, prefix) for factor, prefix in PREFIXES if value >= factor), (1, ""))
    return f"{value / factor:.3g} {prefix}{unit}"


def to_text(plan: Mapping[str, Any]) -> str:
    """Returns a table of the data that `Plan.to_dict` returned."""
    rows = [
        ("run", f"{plan['method']} of {plan['classifier']} on {plan['devices']}"),
        *([("attack", plan["attack"])] if plan["attack"] else []),
        ("parameters", f"{plan['parameters']:,} that are trained"),
        ("batch", f"{plan['batch_size']:,} images, {plan['memory']['batch_size']:,} per device"),
        ("", ""),
        *_step(plan),
        ("", ""),
        *_memory(plan["memory"]),
        ("", ""),
        *_time(plan),
        ("assumed", _assumption(plan["utilization"])),
        ("left out", "reading data, compiling, checkpoints, waiting for other devices"),
    ]
    return "\n".join(f"{name:<16}{text}".rstrip() for name, text in rows)


def _step(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    def row(work: str, flops: str, traffic: str, seconds: str) -> str:
        return f"{work:<52}{flops:>12}{traffic:>12}{seconds:>12}"

    rows = [("on each device", row("", "operations", "memory", "seconds"))]
    for part in plan["parts"]:
        flops = scaled(part["flops"], "FLOP") if part["flops"] else ""
        traffic = scaled(part["traffic"], "B")
        rows.append((f"  {part['name']}", row(part["work"], flops, traffic, f"{part['seconds']:.4g}")))
    return [*rows, ("  a step", row("", "", "", f"{plan['step_seconds']:.4g}"))]


def _memory(memory: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = ("weights", "gradients", "optimizer", "method", "activations")
    parts = ", ".join(f"{name} {scaled(memory[name], 'B')}" for name in names if memory[name])
    fits = "" if memory["batch_size"] <= memory["largest_batch"] else ": THE BATCH DOES NOT FIT"
    return [
        ("memory", f"{scaled(memory['total'], 'B')} of {scaled(memory['available'], 'B')} on each device: {parts}"),
        ("largest batch", f"{memory['largest_batch']:,} images per device{fits}"),
    ]


def _time(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    epochs, steps = plan["epochs"], plan["steps_per_epoch"]
    validation = f"{plan['validation_steps']:,} of {plan['validation_step_seconds']:.4g} s after each epoch"
    rows = [
        ("steps", f"{epochs * steps:,} in {epochs} epochs of {steps:,}"),
        ("validation", validation),
        ("time", f"{plan['hours']:.3g} hours, {plan['device_hours']:,.5g} device hours"),
    ]
    if plan["price"] is not None:
        rows.append(("price", f"{plan['price']:,.2f} at {plan['price_per_device_hour']:g} per device hour"))
    return rows


def _assumption(utilization: float | None) -> str:
    if utilization is None:
        return "what was measured on this machine now"
    return f"{utilization:g} of the published peaks of arithmetic and memory; an all-reduce that overlaps with nothing"

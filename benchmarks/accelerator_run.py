"""Times the steps of `accelerator_export.py` with JAX only. It needs neither TensorFlow nor keras_robust.

Command:  python benchmarks/accelerator_run.py steps [--rounds=20] [--peak=989e12]

It prints one JSON object per step. Milliseconds are the median over rounds, each of which runs all steps of a network
in turn. The object also has the ratio of the step's time to its limit (training steps and input gradients, timed here
as well), operations per second, their share of `--peak`, and the relative difference between the results of the first
step here and in TensorFlow.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
from jax._src import compiler
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jaxlib.mlir import ir


class Step:
    """A step on the device, with its state.

    Args:
        folder: of the step.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        device = jax.devices()[0]
        with mlir.make_ir_context():
            module = ir.Module.parse((folder / "program.mlir").read_text())
            options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
            self._program = device.client.compile_and_load(module, xla_client.DeviceList((device,)), options)
        with np.load(folder / "state.npz") as saved:
            stored = dict(saved)
        state = [_value(index, about, stored) for index, about in enumerate(self.meta["state"])]
        self._state = [jax.device_put(value, device) for value in state]
        random = np.random.default_rng(0)
        images, labels = self.meta["arguments"]
        self._batch = [
            jax.device_put(random.random(images["shape"]).astype(images["dtype"]), device),
            jax.device_put(random.integers(0, 10, labels["shape"]).astype(labels["dtype"]), device),
        ]

    def difference(self) -> float:
        """Takes the first step; returns how far its result is from TensorFlow's, relative to it."""
        expected = self.meta["first_result"]
        return abs(float(np.abs(np.asarray(self._take())).sum()) - expected) / expected

    def seconds(self) -> float:
        """Takes the step and returns how long it took."""
        start = time.perf_counter()
        self._take()
        return time.perf_counter() - start

    def _take(self) -> Any:
        """Takes the step, which overwrites its state; returns its result."""
        results = self._program.execute([*self._batch, *self._state])
        for result in results:
            result.block_until_ready()
        for result, variable in self.meta["updates"].items():
            self._state[variable] = results[int(result)]
        (result,) = (each for index, each in enumerate(results) if str(index) not in self.meta["updates"])
        return result


def _value(index: int, about: dict[str, Any], stored: dict[str, np.ndarray]) -> np.ndarray:
    """Returns a part of the state: what was stored, or the draws of a kernel."""
    if about["deviation"] is None:
        return stored[f"s{index}"]
    return np.random.default_rng(index).normal(0.0, about["deviation"], about["shape"]).astype("float32")


def measure(steps: list[Step], rounds: int, peak: float | None) -> None:
    """Prints what each step of a network takes."""
    differences = {step.meta["step"]: step.difference() for step in steps}
    seconds: dict[str, list[float]] = {step.meta["step"]: [] for step in steps}
    for index in range(rounds + 3):
        for step in steps:
            elapsed = step.seconds()
            if index >= 3:
                seconds[step.meta["step"]].append(elapsed)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    for step in steps:
        meta, median = step.meta, medians[step.meta["step"]]
        result = {name: meta[name] for name in ("network", "step", "batch_size", "precision", "attack_steps")}
        result["milliseconds"] = round(1e3 * median, 3)
        if meta["limit"] and set(meta["limit"]) <= set(medians):
            limit = sum(count * medians[part] for part, count in meta["limit"].items())
            result["of_limit"] = round(median / limit, 3)
        result["teraflops"] = round(meta["operations"] / median / 1e12, 2)
        if peak:
            result["of_peak"] = round(meta["operations"] / median / peak, 4)
        result["difference"] = float(f"{differences[meta['step']]:.2g}")
        print(json.dumps(result), flush=True)


def main() -> None:
    """Measures network after network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peak", type=float, help="published peak of the device, in operations per second")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # labels and counters have 64 bits
    print(json.dumps({"device": jax.devices()[0].device_kind, "jax": jax.__version__}), flush=True)
    for network in sorted(path for path in options.folder.iterdir() if path.is_dir()):
        measure([Step(folder) for folder in sorted(network.iterdir())], options.rounds, options.peak)


if __name__ == "__main__":
    main()

"""Computes from published training speeds which share of its peaks an accelerator reaches.

Command:  python benchmarks/plan_published.py

It prints one JSON object per published speed of ResNet-50 (v1.5, as `kr.architectures.ResNet`) on one GPU. The speeds
are those of TensorFlow 1.15 with XLA in NVIDIA/DeepLearningExamples,
TensorFlow/Classification/ConvNets/resnet50v1.5/README.md, "Training performance results" of the container 20.06. A plan
with this `utilization` predicts the published speed. The median of the utilizations is the default of plans.

It then prints the plan of the run that `configs/imagenet_scale.py` describes, and the utilization with which this run
would take 52 hours, as its authors' INSTRUCTIONS.md reports.
"""

import importlib.util
import json
import pathlib
from typing import Any

import keras
import numpy as np
from absl import app

import keras_robust as kr
from keras_robust.tools.planning import ACCELERATORS, Plan, plan
from keras_robust.tools.planning.costs import cost_of
from keras_robust.tools.planning.passes import UPDATE, Pass

# accelerator, precision, images per batch, images per second
SPEEDS = (
    ("v100-16gb", "float32", 128, 412),
    ("v100-16gb", "mixed_float16", 256, 1270),
    ("a100-40gb", "float32", 256, 909),
    ("a100-40gb", "mixed_float16", 256, 2375),
)
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "imagenet_scale.py"
PUBLISHED_HOURS = 52


def compare(accelerator: str, precision: str, batch_size: int, speed: float) -> dict[str, Any]:
    """Returns what a published speed says."""
    keras.config.set_dtype_policy(precision)
    try:
        classifier = kr.architectures.ResNet(50)
    finally:
        keras.config.set_dtype_policy("float32")
    cost = cost_of(Pass(UPDATE, classifier, batch_size, 1, of_weights=True, training=True))
    at_peak = batch_size / ACCELERATORS[accelerator].seconds(cost.operations, utilization=1.0)
    return {
        "accelerator": accelerator,
        "precision": precision,
        "images_per_second": speed,
        "at_peak": round(at_peak),
        "utilization": round(speed / at_peak, 3),
    }


def median(results: list[dict[str, Any]]) -> float:
    """Returns that of the utilizations."""
    return float(np.median([result["utilization"] for result in results]))


def plan_resnet152() -> Plan:
    """Returns the plan of adversarial training on 128 V100."""
    spec = importlib.util.spec_from_file_location("imagenet_scale", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return plan(module.get_config("clean0"), "128xV100-16GB")


def main(_: list[str]) -> None:
    """Compares and prints."""
    results = [compare(*speed) for speed in SPEEDS]
    for result in results:
        print(json.dumps(result), flush=True)
    print(json.dumps({"median": median(results)}), flush=True)
    planned = plan_resnet152()
    print(planned)
    implied = planned.utilization * planned.hours / PUBLISHED_HOURS
    print(json.dumps({"published_hours": PUBLISHED_HOURS, "hours": planned.hours, "implied_utilization": implied}))


if __name__ == "__main__":
    app.run(main)

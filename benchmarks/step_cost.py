"""What an adversarial training step costs, against the physical limit: natural step + K x (forward + input gradient).

Command:  python benchmarks/step_cost.py [--networks=lenet,resnet20] [--rounds=15]

Each round times every contender once, in turn, so that a drift of the machine hits all alike; the median over the
rounds is printed, in milliseconds, and the ratio of the medians. All are compiled functions on one batch in memory.
The last lines are one JSON object per network and attack precision.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import keras_robust as kr

NETWORKS = flags.DEFINE_list("networks", ["lenet", "resnet20"], "Which of lenet and resnet20 to time.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds; the median over them counts.")
STEPS = flags.DEFINE_integer("steps", 7, "K, the steps of the attack.")
BATCH = flags.DEFINE_integer("batch_size", 128, "Images per step.")

CLASSIFIERS: dict[str, Callable[[], keras.Model]] = {
    "lenet": kr.architectures.LeNet,
    "resnet20": kr.architectures.ResNet20,
}


def compiled(model: keras.Model) -> keras.Model:
    """Returns the model, compiled with SGD and cross-entropy."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, metrics=["accuracy"], jit_compile=False)
    return model


def training_step(model: keras.Model, batch: tuple[tf.Tensor, tf.Tensor]) -> Callable[[], Any]:
    """Returns one step of `fit` on a batch in memory."""
    step = tf.function(model.train_step)
    return lambda: step(batch)["loss"].numpy()


def input_gradient(classifier: keras.Model, batch: tuple[tf.Tensor, tf.Tensor], dtype: str | None) -> Callable[[], Any]:
    """Returns one forward pass and gradient with respect to the images."""
    model_fn = kr.attacks.as_model_fn(classifier, compute_dtype=dtype)

    @tf.function
    def gradient(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model_fn(images))
        return tape.gradient(losses, images)

    return lambda: gradient(*batch).numpy()


def time_in_turns(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Returns the median milliseconds of each contender over interleaved rounds, after two warm-up rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(rounds + 2):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if index >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}


def measure(network: str, steps: int, batch_size: int, rounds: int) -> list[dict[str, Any]]:
    """Returns one result per precision of the attack."""
    make = CLASSIFIERS[network]
    random = np.random.default_rng(0)
    shape = (batch_size, *make().input_shape[1:])
    batch = (tf.constant(random.random(shape, np.float32)), tf.constant(random.integers(0, 10, batch_size)))
    contenders = {
        "natural step": training_step(compiled(make()), batch),
        "input gradient": input_gradient(make(), batch, None),
        "input gradient, bfloat16": input_gradient(make(), batch, "bfloat16"),
    }
    for dtype in (None, "bfloat16"):
        attack = kr.attacks.PGD(kr.Linf(0.3), steps=steps, compute_dtype=dtype)
        model = compiled(kr.AdversarialTraining(make(), attack))
        contenders[f"adversarial training, attack in {dtype or 'float32'}"] = training_step(model, batch)
    times = time_in_turns(contenders, rounds)
    limit = times["natural step"] + steps * times["input gradient"]
    for name, value in times.items():
        print(f"{network:10s} {value:9.1f} ms  {name}")
    print(f"{network:10s} {limit:9.1f} ms  limit in float32: natural step + {steps} x input gradient")
    return [
        {
            "network": network,
            "method": "adversarial_training",
            "attack_dtype": dtype,
            "steps": steps,
            "batch_size": batch_size,
            "ratio": round(times[f"adversarial training, attack in {dtype}"] / limit, 3),
            "step_ms": round(times[f"adversarial training, attack in {dtype}"], 2),
            "natural_step_ms": round(times["natural step"], 2),
            "input_gradient_ms": round(times["input gradient"], 2),
            "rounds": rounds,
        }
        for dtype in ("float32", "bfloat16")
    ]


def main(_: list[str]) -> None:
    """Measures and prints."""
    results = [measure(network, STEPS.value, BATCH.value, ROUNDS.value) for network in NETWORKS.value]
    for result in (result for group in results for result in group):
        print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)

"""Compares the time of each method's training step with its limit: the passes that the method's formula needs.

Command:  python benchmarks/step_cost.py [--networks=lenet,resnet20] [--methods=pgd,free] [--rounds=15]

Each round times a method's step, all passes of its limit, and a natural step. They run in turn, so that changes in the
speed of the machine affect all of them. All are compiled functions on one batch in memory. It prints one JSON object
per network and method, with the medians over the rounds in milliseconds, and their ratio.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import keras_robust as kr
from keras_robust.tools.planning.timing import time_in_turns

NETWORKS = flags.DEFINE_list(
    "networks", ["lenet", "resnet20"], "Networks to time: lenet, resnet20, wrn32_10, resnet50."
)
ROUNDS = flags.DEFINE_integer("rounds", 15, "Number of rounds. The median over them counts.")
STEPS = flags.DEFINE_integer("steps", 7, "K, the number of attack steps.")
BATCH = flags.DEFINE_integer("batch_size", 128, "Images per step.")

METHODS = flags.DEFINE_list("methods", None, "Methods to time; by default all.")
REPLAYS = 4

CLASSIFIERS: dict[str, Callable[[], keras.Model]] = {
    "lenet": kr.architectures.LeNet,
    "resnet20": kr.architectures.ResNet20,
    "wrn32_10": lambda: kr.architectures.WideResNet(32, 10),
    "resnet50": lambda: kr.architectures.ResNet(50),
}


@dataclasses.dataclass(frozen=True)
class Limit:
    """How often a step of a method needs each part, K being the number of attack steps."""

    natural: int = 0  # training step on the batch
    natural_twice: int = 0  # on twice the batch
    gradients: int = 0  # input gradients on the batch
    forwards: int = 0  # forward passes on the batch

    def parts(self) -> dict[str, int]:
        """Returns how often each part is needed, without those that are not."""
        return {name: count for name, count in dataclasses.asdict(self).items() if count}

    def run(self, functions: dict[str, Callable[[], Any]]) -> None:
        """Runs every part, each by its function, as often as it is needed."""
        for name, count in self.parts().items():
            for _ in range(count):
                functions[name]()


def methods(steps: int) -> dict[str, tuple[Callable[[keras.Model], kr.RobustModel], Limit]]:
    """Returns how to make each method, with attacks of `steps` steps, and its limit."""
    ball = kr.Linf(0.3)
    attack = kr.attacks.PGD(ball, steps=steps)
    low = kr.attacks.PGD(ball, steps=steps, compute_dtype="bfloat16")
    kl = kr.attacks.PGD(ball, steps=steps, objective="kl_divergence", random_start="normal")
    once = kr.attacks.PGD(ball, steps=1)
    perturbation = kr.AdversarialWeightPerturbation()
    return {
        "natural": (kr.NaturalTraining, Limit(1)),
        "pgd": (lambda c: kr.AdversarialTraining(c, attack), Limit(1, gradients=steps)),
        "pgd_bfloat16": (lambda c: kr.AdversarialTraining(c, low), Limit(1, gradients=steps)),
        "mixed_minibatch_pgd": (
            lambda c: kr.AdversarialTraining(c, attack, clean_fraction=1.0),
            Limit(0, 1, gradients=steps),
        ),
        "adversarial_logit_pairing": (lambda c: kr.AdversarialLogitPairing(c, attack), Limit(0, 1, gradients=steps)),
        "feature_pairing": (
            lambda c: kr.FeaturePairing(c, attack, layers=[c.layers[-2].name]),
            Limit(0, 1, gradients=steps),
        ),
        "clean_logit_pairing": (lambda c: kr.CleanLogitPairing(c, input_noise=0.5), Limit(1)),
        "logit_squeezing": (lambda c: kr.LogitSqueezing(c, input_noise=0.5), Limit(1)),
        "mixup": (kr.Mixup, Limit(1)),
        "virtual_adversarial_training": (
            lambda c: kr.VirtualAdversarialTraining(c, kr.attacks.VirtualAdversarial(kr.L2(1.5))),
            Limit(2, gradients=1, forwards=1),
        ),
        "free": (
            lambda c: kr.FreeAdversarialTraining(c, kr.attacks.FGSM(ball), replays=REPLAYS),
            Limit(REPLAYS),
        ),
        "trades": (lambda c: kr.TRADES(c, kl), Limit(2, gradients=steps, forwards=1)),
        "mart": (lambda c: kr.MART(c, attack), Limit(2, gradients=steps)),
        "fast": (
            lambda c: kr.FastAdversarialTraining(c, once, validation_attack=attack),
            Limit(1, gradients=1),
        ),
        "ensemble": (
            lambda c: kr.EnsembleAdversarialTraining(c, once, source_models=[keras.models.clone_model(c)]),
            Limit(0, 1, gradients=1),
        ),
        "stale": (
            lambda c: kr.StaleAdversarialTraining(c, attack, staleness=2),
            Limit(1, gradients=steps, forwards=1),
        ),
        "weight_perturbation": (
            lambda c: kr.AdversarialTraining(c, attack, weight_perturbation=perturbation),
            Limit(2, gradients=steps),
        ),
    }


def compiled(model: keras.Model) -> keras.Model:
    """Returns the model, compiled with SGD and cross-entropy."""
    is_one_hot = getattr(model, "NEEDS_ONE_HOT_LABELS", False)
    kind = keras.losses.CategoricalCrossentropy if is_one_hot else keras.losses.SparseCategoricalCrossentropy
    loss = kind(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, metrics=["accuracy"], jit_compile=False)
    return model


def labels_for(model: keras.Model, labels: tf.Tensor) -> tf.Tensor:
    """Returns labels as the model takes them."""
    if getattr(model, "NEEDS_ONE_HOT_LABELS", False):
        return tf.one_hot(labels, model.classifier.output_shape[-1])
    return labels


def training_step(model: keras.Model, batch: tuple[tf.Tensor, tf.Tensor]) -> Callable[[], Any]:
    """Returns one step of `fit` on a batch in memory."""
    images, labels = batch[0], labels_for(model, batch[1])
    step = tf.function(model.train_step)
    return lambda: step((images, labels))["loss"].numpy()


def input_gradient(classifier: keras.Model, batch: tuple[tf.Tensor, tf.Tensor]) -> Callable[[], Any]:
    """Returns one forward pass and gradient with respect to the images."""
    model_fn = kr.attacks.as_model_fn(classifier)

    @tf.function
    def gradient(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model_fn(images))
        return tape.gradient(losses, images)

    return lambda: gradient(*batch).numpy()


def forward_pass(classifier: keras.Model, images: tf.Tensor) -> Callable[[], Any]:
    """Returns one forward pass in inference mode."""
    run = tf.function(kr.attacks.as_model_fn(classifier))
    return lambda: run(images).numpy()


def measure(network: str, names: list[str], steps: int, batch_size: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields one result per method."""
    make = CLASSIFIERS[network]
    random = np.random.default_rng(0)
    shape = (2 * batch_size, *make().input_shape[1:])
    images, labels = tf.constant(random.random(shape, np.float32)), tf.constant(random.integers(0, 10, 2 * batch_size))
    batch = (images[:batch_size], labels[:batch_size])
    parts = {
        "natural": training_step(compiled(make()), batch),
        "natural_twice": training_step(compiled(make()), (images, labels)),
        "gradients": input_gradient(make(), batch),
        "forwards": forward_pass(make(), batch[0]),
    }
    for name in names:
        make_method, limit = methods(steps)[name]
        model = compiled(make_method(make()))
        model.make_replica_state(*batch, replicas=1)
        runs = [training_step(model, batch), functools.partial(limit.run, parts), parts["natural"]]
        step_ms, limit_ms, natural_ms = (1e3 * seconds for seconds in time_in_turns(runs, rounds))
        yield {
            "network": network,
            "method": name,
            "steps": steps,
            "batch_size": batch_size,
            "ratio": round(step_ms / limit_ms, 3),
            "step_ms": round(step_ms, 1),
            "limit_ms": round(limit_ms, 1),
            "natural_steps": round(step_ms / natural_ms, 2),
            "rounds": rounds,
        }


def main(_: list[str]) -> None:
    """Measures and prints."""
    known = list(methods(STEPS.value))
    names = METHODS.value or known
    if unknown := sorted(set(names) - set(known)):
        raise app.UsageError(f"--methods are some of {', '.join(known)}. Received: {', '.join(unknown)}")
    for network in NETWORKS.value:
        for result in measure(network, names, STEPS.value, BATCH.value, ROUNDS.value):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    app.run(main)

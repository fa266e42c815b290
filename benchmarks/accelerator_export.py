"""Writes training steps as StableHLO programs. `accelerator_run.py` times them on a machine with JAX only.

Command:  python benchmarks/accelerator_export.py --folder=steps [--networks=lenet,resnet20,wrn32_10,resnet50] \
              [--methods=natural,pgd,free,adversarial_logit_pairing] [--batch_size=128] [--steps=7] [--precision=...]

There is a folder per network and step. One of the steps is the input gradient. A folder has:

    program.mlir    StableHLO. Its parameters are images, labels, and what meta.json calls state.
    state.npz       variables and constants: s0, s1, ... Kernels are large, so they are not stored: both programs draw
                    them from the same normal distribution.
    meta.json       shapes, which result becomes which variable, floating-point operations, the limit of the step, and
                    the result of the first step in TensorFlow without XLA

Steps are those of `fit` under XLA. The host computes nothing. Operations are counted by formula, with two operations
for a multiplication and an addition in a convolution or matrix product. A forward pass on an image has F operations. A
training step has 3 F (output, gradient of the weights, gradient of the activations), an input gradient has 2 F.
"""

import json
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import step_cost
import tensorflow as tf
from absl import app, flags

import keras_robust as kr

FOLDER = flags.DEFINE_string("folder", "steps", "Folder to write to.")
PRECISION = flags.DEFINE_enum("precision", "float32", ["float32", "mixed_bfloat16"], "Precision of the networks.")
DEFAULT_METHODS = ("natural", "pgd", "free", "adversarial_logit_pairing")
PASSES = {"natural": 3, "natural_twice": 6, "gradients": 2, "forwards": 1}
"""F of each part of a limit, per image of the batch."""


def forward_operations(classifier: keras.Model) -> int:
    """Returns F of a functional or sequential classifier."""
    operations = 0
    for layer in classifier.layers:
        if isinstance(layer, keras.layers.Conv2D):
            operations += 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3])
        elif isinstance(layer, keras.layers.Dense):
            operations += 2 * math.prod(layer.kernel.shape)
    return operations


def export(
    step: Callable[..., Any], arguments: tuple[tf.Tensor, ...], meta: dict[str, Any], folder: pathlib.Path
) -> None:
    """Writes the program of `step`, compiled for these arguments, with its state."""
    function = tf.function(step, jit_compile=True)
    concrete = function.get_concrete_function(*arguments)
    variables = {id(variable.handle): variable for variable in concrete.variables}
    state = [variables.get(id(tensor), tensor) for tensor in concrete.captured_inputs]
    deviations = {index: draw_kernel(each, index) for index, each in enumerate(state) if is_kernel(each)}
    compiler_ir = function.experimental_get_compiler_ir(*arguments)
    header = compiler_ir(stage="hlo").partition("\n")[0]
    aliases = re.search(r"input_output_alias=\{(.*?)\}, entry_computation_layout", header)
    updates = re.findall(r"\{(\d*)\}: \((\d+),", aliases[1]) if aliases else []
    meta |= {
        "arguments": [{"shape": list(each.shape), "dtype": each.dtype.name} for each in arguments],
        "state": [{"shape": list(each.shape), "deviation": deviations.get(i)} for i, each in enumerate(state)],
        "updates": {int(result or 0): int(parameter) - len(arguments) for result, parameter in updates},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.mlir").write_text(compiler_ir(stage="stablehlo"))
    stored = {f"s{index}": each.numpy() for index, each in enumerate(state) if index not in deviations}
    np.savez_compressed(folder / "state.npz", **stored)
    meta["first_result"] = float(np.abs(tf.function(step)(*arguments).numpy()).sum())  # it changes the state
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def is_kernel(value: Any) -> bool:
    """Returns whether a part of the state is the kernel of a convolution or matrix, and no momentum, which is zero."""
    return isinstance(value, tf.Variable) and len(value.shape) > 1 and bool(np.any(value.numpy()))


def draw_kernel(variable: tf.Variable, seed: int) -> float:
    """Replaces a kernel by draws of the same standard deviation, and returns that."""
    deviation = float(np.std(variable.numpy()))
    draws = np.random.default_rng(seed).normal(0.0, deviation, variable.shape)
    variable.assign(draws.astype(variable.dtype.as_numpy_dtype))
    return deviation


def make_batch(shape: tuple[int, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns images and labels, as `accelerator_run.py` draws them."""
    random = np.random.default_rng(0)
    return tf.constant(random.random(shape).astype("float32")), tf.constant(random.integers(0, 10, shape[0]))


def make_classifier(network: str) -> keras.Model:
    """Returns the classifier in the precision that was asked for."""
    keras.config.set_dtype_policy(PRECISION.value)
    try:
        return step_cost.CLASSIFIERS[network]()
    finally:
        keras.config.set_dtype_policy("float32")


def input_gradient(classifier: keras.Model) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns the function of one forward pass and gradient with respect to the images."""
    model_fn = kr.attacks.as_model_fn(classifier)

    def gradient(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model_fn(images))
        return tape.gradient(losses, images)

    return gradient


def export_network(network: str) -> None:
    """Exports the parts of limits, and the methods."""
    steps, batch_size = step_cost.STEPS.value, step_cost.BATCH.value
    classifier = make_classifier(network)
    batch, twice = (make_batch((count, *classifier.input_shape[1:])) for count in (batch_size, 2 * batch_size))
    of_batch = batch_size * forward_operations(classifier)
    about = {"network": network, "batch_size": batch_size, "precision": PRECISION.value, "attack_steps": steps}
    root = pathlib.Path(FOLDER.value) / network

    def write(name: str, step: Callable[..., Any], arguments: tuple[tf.Tensor, ...], limit: dict[str, int]) -> None:
        passes = sum(PASSES[part] * count for part, count in (limit or {name: 1}).items())
        meta = about | {"step": name, "limit": limit, "operations": round(passes * of_batch)}
        export(step, arguments, meta, root / name)
        print(root / name, flush=True)

    write("gradients", input_gradient(classifier), batch, {})
    write("natural_twice", training_step(kr.NaturalTraining(make_classifier(network)), batch), twice, {})
    for name in step_cost.METHODS.value or DEFAULT_METHODS:
        make_method, limit = step_cost.methods(steps)[name]
        write(name, training_step(make_method(make_classifier(network)), batch), batch, limit.parts())


def training_step(model: kr.RobustModel, batch: tuple[tf.Tensor, tf.Tensor]) -> Callable[..., Any]:
    """Returns the training step of a method, of images and labels such as `batch`."""
    model = step_cost.compiled(model)
    model.make_replica_state(*batch, replicas=1)
    model.optimizer.build(model.trainable_variables)
    return lambda images, labels: model.train_step((images, step_cost.labels_for(model, labels)))["loss"]


def main(_: list[str]) -> None:
    """Exports network after network."""
    for network in step_cost.NETWORKS.value:
        export_network(network)


if __name__ == "__main__":
    app.run(main)

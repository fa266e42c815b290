"""Takes a training step of a network for CIFAR and prints the most bytes that the process ever held.

python memory_of_step.py graph revnet 110 256
"""

import pathlib
import re
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_robust.architectures import CifarResNet, RevNet

FILTERS = (32, 32, 64, 128)
NETWORKS = {
    "revnet": lambda depth, **options: RevNet(depth, filters=FILTERS, **options),
    "stored": lambda depth, **options: RevNet(depth, filters=FILTERS, recompute=False, **options),
    "resnet": CifarResNet,
}


def main(mode: str, network: str, depth: str, batch: str) -> None:
    """Takes the step, compiled with XLA if `mode` is "xla"; the images are then a quarter as large."""
    size, count = 16 if mode == "xla" else 32, int(batch)
    model = NETWORKS[network](int(depth), input_shape=(size, size, 3))
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    weights = [variable.value for variable in model.trainable_variables]
    images = tf.constant(np.random.default_rng(0).uniform(size=(count, size, size, 3)), tf.float32)
    labels = tf.range(count) % 10

    @tf.function(jit_compile=mode == "xla")
    def training_step(images: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=labels))
        optimizer.apply(tape.gradient(loss, weights), model.trainable_variables)

    training_step(images, labels)
    status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss would count what a large parent held at the fork
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])

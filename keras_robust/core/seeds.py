"""Random draws that are the same with and without XLA, and seeds that differ per step and replica.

TensorFlow's stateless float draws change under `jit_compile`; its integer draws and `stateless_fold_in` do not. So
every draw here starts from 32 random bits. A seed is an int32 tensor of shape (2,).
"""

import math
from typing import Any

import tensorflow as tf

Tensor = Any  # tf.Tensor carries no types

TRAINING, VALIDATION, AUGMENTATION, WORKER, MIXING, WINDOW = range(6)
"""Uses of one seed. Each use first folds the seed with its own number."""


def as_seed(seed: int | Tensor) -> Tensor:
    """Returns `seed` as an int32 tensor of shape (2,).

    Args:
        seed: an integer in [0, 2**31), or an integer tensor of shape (2,).

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(seed, int) and not isinstance(seed, bool):
        if not 0 <= seed < 2**31:
            raise ValueError(f"A seed must be an integer in [0, 2**31). Received: seed={seed}")
        return tf.constant([0, seed], tf.int32)
    seed = tf.convert_to_tensor(seed)
    if not seed.dtype.is_integer or seed.shape != (2,):
        raise ValueError(f"A seed must be an integer or an integer tensor of shape (2,). Received: seed={seed}")
    return tf.bitwise.bitwise_and(tf.cast(seed, tf.int32), tf.int32.max)


def fold(seed: Tensor, *numbers: int | Tensor) -> Tensor:
    """Returns a new seed that depends on `seed` and on each of the integer `numbers`, in order.

    Its entries are at least 0: XLA and TensorFlow extend a negative int32 seed to 64 bits differently.
    """
    for number in numbers:
        folded = tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int32), alg="philox")
        seed = tf.bitwise.bitwise_and(folded, tf.int32.max)
    return seed


def fold_replica(seed: Tensor) -> Tensor:
    """Returns the seed of this replica: the same in every run, different on every replica of a strategy."""
    context = tf.distribute.get_replica_context()
    return seed if context is None else fold(seed, context.replica_id_in_sync_group)


def uniform(shape: Any, seed: Tensor) -> Tensor:
    """Draws from the uniform distribution on [0, 1).

    Args:
        shape: shape of the result, a sequence of integers or an integer tensor.
        seed: int32 tensor of shape (2,).

    Returns:
        float32 multiples of 2**-24, bitwise the same in eager mode, in a graph and under XLA.
    """
    bits = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def normal(shape: Any, seed: Tensor) -> Tensor:
    """Draws float32 from the standard normal distribution, by the Box-Muller transform of two uniform draws."""
    radius = tf.sqrt(-2.0 * tf.math.log1p(-uniform(shape, fold(seed, 0))))
    return radius * tf.cos(2.0 * math.pi * uniform(shape, fold(seed, 1)))


def exponential(shape: Any, seed: Tensor) -> Tensor:
    """Draws float32 from the exponential distribution with mean 1."""
    return -tf.math.log1p(-uniform(shape, seed))


def integers(shape: Any, seed: Tensor, maximum: int | Tensor) -> Tensor:
    """Draws int32 uniformly from 0, ..., maximum - 1, where maximum is at most 2**24."""
    return tf.cast(tf.floor(uniform(shape, seed) * tf.cast(maximum, tf.float32)), tf.int32)

"""RMSprop of TensorFlow 1, against its recursion in NumPy."""

import keras
import numpy as np
import pytest

import keras_robust as kr


@pytest.mark.parametrize(("momentum", "epsilon"), [(0.9, 1.0), (0.0, 1e-3)])
def test_recursion(momentum, epsilon):
    """From ms = 1: ms = rho ms + (1 - rho) g^2; m = momentum m + rate g / sqrt(ms + epsilon); w = w - m."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=5)
    variable = keras.Variable(w, dtype="float32")
    optimizer = kr.optimizers.TensorFlow1RMSprop(0.1, rho=0.8, momentum=momentum, epsilon=epsilon)
    mean_square, velocity = np.ones(5), np.zeros(5)
    for _ in range(4):
        g = rng.normal(size=5)
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32")], [variable])
        mean_square = 0.8 * mean_square + 0.2 * g**2
        velocity = momentum * velocity + 0.1 * g / np.sqrt(mean_square + epsilon)
        w = w - velocity
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), w, rtol=1e-5)


def test_first_update_differs_from_keras():
    """sqrt(0.9 + 0.1 g^2 + 1) against sqrt(0.1 g^2 + 1)."""
    updates = []
    for optimizer in (kr.optimizers.TensorFlow1RMSprop(1.0), keras.optimizers.RMSprop(1.0, 0.9, 0.9, 1.0)):
        variable = keras.Variable([0.0])
        optimizer.apply([keras.ops.convert_to_tensor([2.0])], [variable])
        updates.append(float(keras.ops.convert_to_numpy(variable)[0]))
    np.testing.assert_allclose(updates, [-2 / np.sqrt(0.9 + 0.4 + 1), -2 / np.sqrt(0.4 + 1)], rtol=1e-6)


def test_round_trip():
    optimizer = kr.optimizers.TensorFlow1RMSprop(kr.optimizers.staircase_decay(10), use_ema=True, ema_momentum=0.9999)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is kr.optimizers.TensorFlow1RMSprop
    assert again.get_config() == optimizer.get_config()
    assert (again.rho, again.momentum, again.epsilon) == (0.9, 0.9, 1.0)

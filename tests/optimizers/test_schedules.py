"""Schedules, at their corners."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_robust as kr


def rates(schedule, steps) -> list[float]:
    return [float(schedule(step)) for step in steps]


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=5, unique=True),
    st.lists(st.floats(0, 10), min_size=6, max_size=6),
    st.integers(0, 1500),
)
def test_piecewise_linear_is_interpolation(steps, values, step):
    steps = [0, *sorted(steps)]
    values = values[: len(steps)]
    got = float(kr.optimizers.PiecewiseLinear(steps, values)(step))
    np.testing.assert_allclose(got, np.interp(step, steps, values), atol=1e-4)


def test_cyclic():
    schedule = kr.optimizers.cyclic(100, peak=0.2, peak_fraction=0.4)
    np.testing.assert_allclose(rates(schedule, [0, 20, 40, 70, 100, 200]), [0, 0.1, 0.2, 0.1, 0, 0], atol=1e-6)


def test_step_decay_of_the_large_scale_paper():
    """0.1, 0.01 from epoch 35, 0.001 from 70, 0.0001 from 95; 5 epochs of warm-up."""
    schedule = kr.optimizers.step_decay(10, warmup_epochs=5)
    np.testing.assert_allclose(rates(schedule, [0, 24, 49, 50, 349]), [0.002, 0.05, 0.1, 0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(rates(schedule, [350, 699, 700, 949, 950]), [0.01, 0.01, 0.001, 0.001, 1e-4], rtol=1e-5)


@pytest.mark.parametrize("epochs", [(70, 35, 95), (35, 35)])
def test_drops_that_do_not_follow_each_other_are_refused(epochs):
    with pytest.raises(ValueError, match="Received: epochs="):
        kr.optimizers.step_decay(10, epochs=epochs)


def test_step_decay_in_steps():
    schedule = kr.optimizers.step_decay(1, epochs=(40_000, 60_000))
    np.testing.assert_allclose(rates(schedule, [39_999, 40_000, 59_999, 60_000]), [0.1, 0.01, 0.01, 0.001], rtol=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [
        kr.optimizers.PiecewiseLinear([0, 5, 10], [0.0, 1.0, 0.5]),
        kr.optimizers.step_decay(10, warmup_epochs=1),
        kr.optimizers.cyclic(50, peak=0.1),
        kr.optimizers.Scaled(kr.optimizers.cyclic(50, peak=0.1), 2.0),
    ],
)
def test_round_trip(schedule):
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert type(again) is type(schedule)
    assert rates(again, range(0, 60, 7)) == rates(schedule, range(0, 60, 7))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kr.optimizers.PiecewiseLinear([0], [1.0]), r"Received: steps=\[0\]"),
        (lambda: kr.optimizers.PiecewiseLinear([1, 2], [1.0, 2.0]), r"Received: steps=\[1, 2\]"),
        (lambda: kr.optimizers.PiecewiseLinear([0, 2, 2], [1.0, 2.0, 3.0]), r"Received: steps=\[0, 2, 2\]"),
        (lambda: kr.optimizers.WarmUp(kr.optimizers.cyclic(9, peak=1.0), 0), "Received: warmup_steps=0"),
        (lambda: kr.optimizers.Scaled(kr.optimizers.cyclic(9, peak=1.0), 0), "Received: factor=0"),
        (lambda: kr.optimizers.cyclic(9, peak=1.0, peak_fraction=1.0), "Received: peak_fraction=1.0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()

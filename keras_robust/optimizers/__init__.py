"""The papers' optimizer, and the learning-rate schedules of the papers and of this toolkit's configs."""

from keras_robust.optimizers.published import (
    PiecewiseLinear,
    Scaled,
    TensorFlow1RMSprop,
    WarmUp,
    cyclic,
    one_cycle,
    staircase_decay,
    step_decay,
)

__all__ = [
    "PiecewiseLinear",
    "Scaled",
    "TensorFlow1RMSprop",
    "WarmUp",
    "cyclic",
    "one_cycle",
    "staircase_decay",
    "step_decay",
]

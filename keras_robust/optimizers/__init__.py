"""Learning-rate schedules of the papers and of this toolkit's configs, counted in steps."""

from keras_robust.optimizers.schedules import one_cycle, staircase_decay

__all__ = ["one_cycle", "staircase_decay"]

"""Learning-rate schedules, in the units that papers state them in, as Keras schedules."""

import keras


def one_cycle(
    total_steps: int, *, peak: float, warmup_fraction: float = 0.3
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a rate that rises linearly from peak / 25 to `peak` and falls to 0 along a cosine (Smith & Topin, 2018).

    Args:
        total_steps: length of the training run.
        peak: highest rate.
        warmup_fraction: of the steps until the peak, in [0, 1).

    Raises:
        ValueError: if `warmup_fraction` is out of its range.
    """
    if not 0 <= warmup_fraction < 1:
        raise ValueError(f"warmup_fraction is in [0, 1). Received: warmup_fraction={warmup_fraction!r}")
    warmup_steps = round(warmup_fraction * total_steps)
    return keras.optimizers.schedules.CosineDecay(
        peak / 25 if warmup_steps else peak,
        decay_steps=total_steps - warmup_steps,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def staircase_decay(
    steps_per_epoch: int, *, initial: float = 0.045, rate: float = 0.94, epochs: float = 2.0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns initial * rate^floor(epoch / epochs): that of Kannan et al. (2018, section 5.3.2) by default.

    Args:
        steps_per_epoch: steps of a pass over the training data.
        initial: first rate.
        rate: factor of each stair.
        epochs: length of a stair.
    """
    return keras.optimizers.schedules.ExponentialDecay(
        initial, decay_steps=round(epochs * steps_per_epoch), decay_rate=rate, staircase=True
    )

"""Distribution strategies, by name."""

from keras_robust.distribution.strategy import STRATEGIES, create_strategy

__all__ = ["STRATEGIES", "create_strategy"]

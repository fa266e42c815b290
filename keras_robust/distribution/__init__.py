"""Distribution strategies, by name."""

from keras_robust.distribution.strategy import create_strategy

__all__ = ["create_strategy"]

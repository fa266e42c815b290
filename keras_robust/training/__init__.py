"""Training from configs: ConfigDict to objects, one call to train, resume, callbacks."""

from keras_robust.training.build import build_attack, build_model
from keras_robust.training.train import train

__all__ = ["build_attack", "build_model", "train"]

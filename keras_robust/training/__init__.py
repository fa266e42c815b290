"""Training from configs: ConfigDict to objects, one call to train, resume, callbacks."""

from keras_robust.methods.weight_averages import ValidateAverages
from keras_robust.training.build import build_attack, build_model
from keras_robust.training.train import train
from keras_robust.training.train_async import train_async

__all__ = ["ValidateAverages", "build_attack", "build_model", "train", "train_async"]

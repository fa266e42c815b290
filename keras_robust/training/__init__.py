"""Training from a config: one call builds the model, trains it, and resumes an interrupted run."""

from keras_robust.methods.weight_averages import ValidateAverages
from keras_robust.training.build import build_attack, build_model
from keras_robust.training.train import train
from keras_robust.training.train_async import train_async

__all__ = ["ValidateAverages", "build_attack", "build_model", "train", "train_async"]

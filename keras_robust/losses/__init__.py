"""Losses: pure per-example functions, and a `keras.losses.Loss` around each."""

from keras_robust.losses.boosted_cross_entropy import BoostedCrossEntropy
from keras_robust.losses.divergence import DivergenceLoss
from keras_robust.losses.pairing import PairingLoss, get_pairing_loss

__all__ = ["BoostedCrossEntropy", "DivergenceLoss", "PairingLoss", "get_pairing_loss"]

"""Losses: pure per-example functions, and a `keras.losses.Loss` around each."""

from keras_robust.losses.pairing import PairingLoss, get_pairing_loss
from keras_robust.losses.robust_losses import BoostedCrossEntropy, DivergenceLoss

__all__ = ["BoostedCrossEntropy", "DivergenceLoss", "PairingLoss", "get_pairing_loss"]

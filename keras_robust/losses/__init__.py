"""Losses: pure per-example functions, and a `keras.losses.Loss` around each."""

from keras_robust.losses.pairing import PairingLoss, get_pairing_loss

__all__ = ["PairingLoss", "get_pairing_loss"]

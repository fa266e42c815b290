"""Training methods: `keras.Model` subclasses around a classifier and an attack, trained with plain `fit`."""

from keras_robust.methods.adversarial_logit_pairing import AdversarialLogitPairing
from keras_robust.methods.adversarial_training import AdversarialTraining
from keras_robust.methods.robust_model import RobustModel

__all__ = ["AdversarialLogitPairing", "AdversarialTraining", "RobustModel"]

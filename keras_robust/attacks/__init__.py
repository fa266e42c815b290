"""Attacks: `attack(model, images, labels)` of a Keras model and arrays, or `attack(model_fn, images, labels, seed)`."""

from keras_robust.attacks.apgd import APGD
from keras_robust.attacks.attack import Attack, IterativeAttack, as_model_fn, low_precision_of
from keras_robust.attacks.fab import FAB
from keras_robust.attacks.hop_skip_jump import HopSkipJump
from keras_robust.attacks.pgd import BIM, CW, FGSM, PGD, RFGSM
from keras_robust.attacks.spsa import SPSA
from keras_robust.attacks.square import Square
from keras_robust.attacks.virtual_adversarial import VirtualAdversarial

__all__ = [
    "APGD",
    "BIM",
    "CW",
    "FAB",
    "FGSM",
    "PGD",
    "RFGSM",
    "SPSA",
    "Attack",
    "HopSkipJump",
    "IterativeAttack",
    "Square",
    "VirtualAdversarial",
    "as_model_fn",
    "low_precision_of",
]

"""Attacks: `attack(model_fn, images, labels, seed) -> images`, where `model_fn` maps images to logits."""

from keras_robust.attacks.attack import Attack
from keras_robust.attacks.model_fn import as_model_fn
from keras_robust.attacks.pgd import BIM, FGSM, PGD, RFGSM

__all__ = ["BIM", "FGSM", "PGD", "RFGSM", "Attack", "as_model_fn"]

"""Training methods: `keras.Model` subclasses around a classifier and an attack, trained with plain `fit`."""

from keras_robust.core.keras_private import is_chief, is_multi_worker
from keras_robust.methods.adversarial_training import AdversarialTraining
from keras_robust.methods.adversarial_weight_perturbation import AdversarialWeightPerturbation
from keras_robust.methods.batch_statistics import FreezeBatchStatistics, finetune_batch_norm
from keras_robust.methods.divergence_training import MART, TRADES, VirtualAdversarialTraining
from keras_robust.methods.ensemble_adversarial_training import EnsembleAdversarialTraining
from keras_robust.methods.fast_adversarial_training import DetectCatastrophicOverfitting, FastAdversarialTraining
from keras_robust.methods.free_adversarial_training import FreeAdversarialTraining
from keras_robust.methods.natural_training import Mixup, NaturalTraining
from keras_robust.methods.pairing import AdversarialLogitPairing, CleanLogitPairing, FeaturePairing, LogitSqueezing
from keras_robust.methods.robust_model import RobustModel
from keras_robust.methods.stale_adversarial_training import StaleAdversarialTraining

__all__ = [
    "MART",
    "TRADES",
    "AdversarialLogitPairing",
    "AdversarialTraining",
    "AdversarialWeightPerturbation",
    "CleanLogitPairing",
    "DetectCatastrophicOverfitting",
    "EnsembleAdversarialTraining",
    "FastAdversarialTraining",
    "FeaturePairing",
    "FreeAdversarialTraining",
    "FreezeBatchStatistics",
    "LogitSqueezing",
    "Mixup",
    "NaturalTraining",
    "RobustModel",
    "StaleAdversarialTraining",
    "VirtualAdversarialTraining",
    "finetune_batch_norm",
    "is_chief",
    "is_multi_worker",
]

"""Training methods: `keras.Model` subclasses around a classifier and an attack, trained with plain `fit`."""

from keras_robust.methods.adversarial_logit_pairing import AdversarialLogitPairing
from keras_robust.methods.adversarial_training import AdversarialTraining
from keras_robust.methods.adversarial_weight_perturbation import AdversarialWeightPerturbation
from keras_robust.methods.catastrophic_overfitting import DetectCatastrophicOverfitting
from keras_robust.methods.clean_logit_pairing import CleanLogitPairing
from keras_robust.methods.ensemble_adversarial_training import EnsembleAdversarialTraining
from keras_robust.methods.fast_adversarial_training import FastAdversarialTraining
from keras_robust.methods.feature_pairing import FeaturePairing
from keras_robust.methods.finetune_batch_norm import finetune_batch_norm
from keras_robust.methods.free_adversarial_training import FreeAdversarialTraining
from keras_robust.methods.freeze_batch_statistics import FreezeBatchStatistics
from keras_robust.methods.logit_squeezing import LogitSqueezing
from keras_robust.methods.mart import MART
from keras_robust.methods.mixup import Mixup
from keras_robust.methods.multi_worker import is_chief, is_multi_worker
from keras_robust.methods.natural_training import NaturalTraining
from keras_robust.methods.robust_model import RobustModel
from keras_robust.methods.stale_adversarial_training import StaleAdversarialTraining
from keras_robust.methods.trades import TRADES
from keras_robust.methods.virtual_adversarial_training import VirtualAdversarialTraining

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

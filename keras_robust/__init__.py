"""Train, honestly evaluate and ship Keras image classifiers that withstand adversarial examples.

    import keras_robust as kr

    attack = kr.attacks.PGD(kr.Linf(0.3), steps=40, step_size=0.01)
    model = kr.AdversarialLogitPairing(kr.architectures.LeNet(), attack, pairing_weight=1.0)

Images are floats in [0, 1]. Epsilon is in the units of the images.
"""

from keras_robust._imports import on_first_use  # must come first: it refuses backends other than TensorFlow

# isort: split
from keras_robust import (
    architectures,
    attacks,
    core,
    data,
    distribution,
    evaluation,
    layers,
    losses,
    optimizers,
    training,
)
from keras_robust.core import L1, L2, Linf
from keras_robust.evaluation import Report, evaluate
from keras_robust.export import export
from keras_robust.methods import (
    MART,
    TRADES,
    AdversarialLogitPairing,
    AdversarialTraining,
    AdversarialWeightPerturbation,
    CleanLogitPairing,
    DetectCatastrophicOverfitting,
    EnsembleAdversarialTraining,
    FastAdversarialTraining,
    FeaturePairing,
    FreeAdversarialTraining,
    FreezeBatchStatistics,
    LogitSqueezing,
    Mixup,
    NaturalTraining,
    RobustModel,
    StaleAdversarialTraining,
    VirtualAdversarialTraining,
    finetune_batch_norm,
)
from keras_robust.version import __version__

__getattr__ = on_first_use(__name__, {"planning": "keras_robust.tools.planning"})

__all__ = [
    "L1",
    "L2",
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
    "Linf",
    "LogitSqueezing",
    "Mixup",
    "NaturalTraining",
    "Report",
    "RobustModel",
    "StaleAdversarialTraining",
    "VirtualAdversarialTraining",
    "__version__",
    "architectures",
    "attacks",
    "core",
    "data",
    "distribution",
    "evaluate",
    "evaluation",
    "export",
    "finetune_batch_norm",
    "layers",
    "losses",
    "optimizers",
    "planning",
    "training",
]

"""The vocabulary: threat models, objectives, targets, seeds, checks. No Keras models."""

from keras_robust.core.objectives import CrossEntropy, DifferenceOfLogitsRatio, KLDivergence, Margin, Objective
from keras_robust.core.threat_models import L1, L2, Linf, ThreatModel

__all__ = [
    "L1",
    "L2",
    "CrossEntropy",
    "DifferenceOfLogitsRatio",
    "KLDivergence",
    "Linf",
    "Margin",
    "Objective",
    "ThreatModel",
]

"""Evaluation: how robust a classifier is, with the record that shows how it was measured."""

from keras_robust.evaluation.autoattack import AutoAttack
from keras_robust.evaluation.curves import epsilon_curve, iteration_curve
from keras_robust.evaluation.evaluate import evaluate
from keras_robust.evaluation.inputs import dataset_for
from keras_robust.evaluation.large_epsilon_images import large_epsilon_images
from keras_robust.evaluation.loss_surface import loss_surface
from keras_robust.evaluation.masking import Check, masking_checks
from keras_robust.evaluation.named_suites import SUITES, evaluate_suite
from keras_robust.evaluation.normalization_statistics import normalization_statistics
from keras_robust.evaluation.paper_suite import PaperSuite
from keras_robust.evaluation.report import Report, compare
from keras_robust.evaluation.suite import Combined, Suite
from keras_robust.evaluation.transfer_matrix import transfer_matrix

__all__ = [
    "SUITES",
    "AutoAttack",
    "Check",
    "Combined",
    "PaperSuite",
    "Report",
    "Suite",
    "compare",
    "dataset_for",
    "epsilon_curve",
    "evaluate",
    "evaluate_suite",
    "iteration_curve",
    "large_epsilon_images",
    "loss_surface",
    "masking_checks",
    "normalization_statistics",
    "transfer_matrix",
]

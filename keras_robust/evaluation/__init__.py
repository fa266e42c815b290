"""Evaluation: how robust a classifier is, with the record that shows how it was measured."""

from keras_robust.evaluation.evaluate import evaluate
from keras_robust.evaluation.report import Report

__all__ = ["Report", "evaluate"]

"""The papers' experiments: trained, measured, and put beside the published numbers."""

from keras_robust.reproduction.catalog import load_config, load_experiments
from keras_robust.reproduction.experiment import SCALES, Column, Experiment, ModelSpec, Row
from keras_robust.reproduction.figure import draw_figure
from keras_robust.reproduction.reproduce import reproduce
from keras_robust.reproduction.results import read_results, results_page, results_table, write_page, write_results
from keras_robust.reproduction.run import Runner
from keras_robust.reproduction.smoke import smoke_config

__all__ = [
    "SCALES",
    "Column",
    "Experiment",
    "ModelSpec",
    "Row",
    "Runner",
    "draw_figure",
    "load_config",
    "load_experiments",
    "read_results",
    "reproduce",
    "results_page",
    "results_table",
    "smoke_config",
    "write_page",
    "write_results",
]

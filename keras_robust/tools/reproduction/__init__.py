"""Experiments of papers: trains and measures their models, and compares the results with the published numbers."""

from keras_robust.tools.reproduction.experiment import (
    SCALES,
    Column,
    Experiment,
    ModelSpec,
    Row,
    load_config,
    load_experiments,
)
from keras_robust.tools.reproduction.results import (
    draw_figure,
    read_results,
    results_page,
    results_table,
    write_page,
    write_results,
)
from keras_robust.tools.reproduction.run import Runner, reproduce, smoke_config

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

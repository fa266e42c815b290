"""From names of experiments to the page of results."""

import pathlib
from collections.abc import Sequence

from keras_robust.reproduction.catalog import load_experiments
from keras_robust.reproduction.results import results_table, write_page, write_results
from keras_robust.reproduction.run import Runner

ALL = "all"


def reproduce(names: Sequence[str], runner: Runner, results: pathlib.Path) -> pathlib.Path:
    """Runs experiments, writes their records and the page of all records that are there, and returns its path.

    Args:
        names: of experiments; ("all",) stands for all that can be run at the scale of the runner.
        runner: trains and evaluates.
        results: folder of the records; the page, RESULTS.md, is written beside it.

    Raises:
        ValueError: if an experiment is unknown or cannot be run at that scale; nothing is run then.
    """
    experiments = load_experiments(runner.configs)
    unknown = [name for name in names if name not in (*experiments, ALL)]
    if unknown:
        raise ValueError(f"An experiment is one of {sorted(experiments)}, or 'all'. Received: {unknown}")
    if ALL in names:
        names = [name for name, experiment in experiments.items() if experiment.runs_at(runner.scale)]
    for name in names:
        experiments[name].at(runner.scale)
    results.mkdir(parents=True, exist_ok=True)
    for name in names:
        measured = runner.run(experiments[name])
        write_results(experiments[name], measured, results)
        if runner.verbose:
            print(f"\n{name}\n{results_table(experiments[name], measured)}\n", flush=True)
    return write_page(experiments, results)

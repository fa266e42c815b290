"""Runs experiments of the papers, and writes what was measured beside what is published.

Command:  python launch/reproduce.py --experiment=alp_table1 --scale=small --workdir=runs/papers --data_dir=DATA_DIR
Command:  python launch/reproduce.py --experiment=all --scale=smoke --workdir=runs/smoke

Started again on the same workdir it goes on where it stopped. The records go to WORKDIR/results, and the page of all
that are there to WORKDIR/RESULTS.md; `--results=docs/results` writes both into the documentation.
"""

import pathlib

from absl import flags

from keras_robust.tools import reproduction
from keras_robust.training import command_line

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"

EXPERIMENT = flags.DEFINE_list("experiment", [], "Names from configs/experiments, or all; none writes the page alone.")
SCALE = flags.DEFINE_enum("scale", "paper", reproduction.SCALES, "The paper's, minutes per model, or seconds.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of models and reports.", required=True)
RESULTS = flags.DEFINE_string("results", None, "Folder of the records; WORKDIR/results where not given.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of TFDS's data sets; its default where not given.")
DOWNLOAD = flags.DEFINE_bool("download", False, "Download a data set that is missing.")


def main(_: list[str]) -> None:
    """Reproduces."""
    workdir = pathlib.Path(WORKDIR.value)
    runner = reproduction.Runner(SCALE.value, workdir, CONFIGS, data_dir=DATA_DIR.value, download=DOWNLOAD.value)
    results = workdir / "results" if RESULTS.value is None else pathlib.Path(RESULTS.value)
    page = reproduction.reproduce(EXPERIMENT.value, runner, results)
    print(f"Results: {page}")


if __name__ == "__main__":
    command_line.run(main)

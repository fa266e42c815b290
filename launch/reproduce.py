"""Runs experiments of the papers, and writes the results next to the published numbers.

Command:  python launch/reproduce.py --experiment=alp_table1 --scale=small --workdir=runs/papers --data_dir=DATA_DIR
Command:  python launch/reproduce.py --experiment=all --scale=smoke --workdir=runs/smoke

With the same workdir, it resumes where it stopped. It writes records to WORKDIR/results, and a page of all records in
this folder to WORKDIR/RESULTS.md. With --results=docs/results, it writes records and page into the documentation.
"""

import pathlib

from absl import flags

from keras_robust.tools import reproduction
from keras_robust.training import command_line

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"

EXPERIMENT = flags.DEFINE_list(
    "experiment", [], "Names from configs/experiments, or all; without names, only the page is written."
)
SCALE = flags.DEFINE_enum(
    "scale", "paper", reproduction.SCALES, "paper: as published; small: minutes per model; smoke: seconds."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the models and reports.", required=True)
RESULTS = flags.DEFINE_string("results", None, "Folder of the records; by default WORKDIR/results.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared data sets; by default that of TFDS.")
DOWNLOAD = flags.DEFINE_bool("download", False, "Let TFDS download a data set that is missing.")


def main(_: list[str]) -> None:
    """Runs the experiments."""
    workdir = pathlib.Path(WORKDIR.value)
    runner = reproduction.Runner(SCALE.value, workdir, CONFIGS, data_dir=DATA_DIR.value, download=DOWNLOAD.value)
    results = workdir / "results" if RESULTS.value is None else pathlib.Path(RESULTS.value)
    page = reproduction.reproduce(EXPERIMENT.value, runner, results)
    print(f"Results: {page}")


if __name__ == "__main__":
    command_line.run(main)

"""Compares several reports side by side. Writes compare.html and compare.md.

Command:  python launch/compare.py --reports=runs/a/report,runs/b/report --output=runs/comparison
"""

from absl import flags

import keras_robust as kr
from keras_robust.training import command_line

REPORTS = flags.DEFINE_list("reports", None, "Folders of the reports, separated by commas.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write the comparison to.", required=True)


def main(_: list[str]) -> None:
    """Compares the reports."""
    kr.evaluation.compare(REPORTS.value, OUTPUT.value)
    print(f"Comparison: {OUTPUT.value}/compare.html")


if __name__ == "__main__":
    command_line.run(main)

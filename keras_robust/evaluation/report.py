"""The result of an evaluation, its files on disk, and comparisons of several results."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from keras_robust import reports
from keras_robust.reports import wording
from keras_robust.reports.formatting import count

RECORD_FILE = "record.json"
SAMPLES_FILE = "samples.npz"
ADVERSARIALS_FILE = "adversarials.npz"


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of an evaluation. All accuracies are fractions.

    Attributes:
        record: all results and settings of the evaluation, as in `record.json`.
        samples: a few examples as arrays: `images` and `attacked`, (n, height, width, channels) or another shape of
            images; `labels`, `clean_predictions` and `attacked_predictions`, (n,); and `attack_name`, ().
        adversarials: attacked images by the name of the attack. None if `keep_adversarials` was not set, or if their
            file is missing. Each is float32 (examples, height, width, channels), in the order of the data set. An
            example that was not attacked has its clean image. Their predictions are
            `record["details"][name]["predictions"]`. The name "worst" is the worst case of each example: the image of
            the first attack that broke it, or of the last attack if none did, or the clean image if the classifier is
            wrong on it. Its predictions are `record["adversarial_predictions"]`.
    """

    record: dict[str, Any]
    samples: dict[str, np.ndarray]
    adversarials: dict[str, np.ndarray] | None = None

    @property
    def clean_accuracy(self) -> float:
        """The fraction of examples on which the classifier is right without an attack."""
        return self.record["clean_accuracy"]

    @property
    def robust_accuracy(self) -> float:
        """The fraction of examples that withstand all attacks: the worst case per example."""
        return self.record["robust_accuracy"]

    @property
    def attacks(self) -> dict[str, float]:
        """The robust accuracy under each attack, by name."""
        return self.record["attacks"]

    @property
    def checks(self) -> list[dict[str, Any]]:
        """The checks for gradient masking that were run."""
        return self.record["checks"]

    def save(self, folder: str | pathlib.Path) -> None:
        """Writes the report into `folder`: `samples.npz`, `report.md`, a self-contained `index.html` and `record.json`.

        If adversarial images were kept, they are written as `adversarials.npz`. Otherwise an `adversarials.npz` of an
        earlier report is deleted. The record is written last and renamed into place, so that a folder with a record has
        all other files.

        Raises:
            ValueError: if `folder` cannot be made.
        """
        folder = pathlib.Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"folder must be a folder that can be made. Received: folder={folder} ({error})"
            ) from error
        np.savez_compressed(folder / SAMPLES_FILE, **self.samples)  # type: ignore[arg-type]
        if self.adversarials is None:
            (folder / ADVERSARIALS_FILE).unlink(missing_ok=True)
        else:
            np.savez(folder / ADVERSARIALS_FILE, **self.adversarials)  # type: ignore[arg-type]
        reports.write_report(self.record, self.samples, folder)
        partial = folder / f"{RECORD_FILE}.partial"
        partial.write_text(json.dumps(self.record, indent=1) + "\n")
        partial.replace(folder / RECORD_FILE)

    @classmethod
    def load(cls, folder: str | pathlib.Path) -> Self:
        """Reads the report that `save` wrote.

        Raises:
            ValueError: if the folder holds no record.
        """
        folder = pathlib.Path(folder)
        record, adversarials = _load_record(folder), None
        if (folder / ADVERSARIALS_FILE).exists():
            with np.load(folder / ADVERSARIALS_FILE) as arrays:
                adversarials = dict(arrays)
        with np.load(folder / SAMPLES_FILE) as samples:
            return cls(record, dict(samples), adversarials)

    def __str__(self) -> str:
        source, suite = self.record["black_box_source"], self.record["suite"]
        box = f"black box, crafted on {source}" if source else "white box"
        examples, dataset = count(self.record["examples"], "example"), self.record["dataset"]
        # A data set without a name is described by its number of examples.
        lines = [f"{examples}{'' if dataset == examples else f' of {dataset}'}, {box}"]
        lines += [f"  {100 * self.clean_accuracy:5.1f} %  clean"]
        after = "after " if suite else ""
        lines += [f"  {100 * accuracy:5.1f} %  {after}{name}" for name, accuracy in self.attacks.items()]
        if len(self.attacks) > 1:
            worst = suite["name"] if suite else "worst case per example over these attacks"
            lines += [f"  {100 * self.robust_accuracy:5.1f} %  {worst}"]
        lines += [
            f"  {100 * success:5.1f} %  of the examples attacked by {name} reached their target"
            for name, success in (self.record.get("targeted_success") or {}).items()
            if success is not None and self.record["details"][name]["aim"] == "given"
        ]
        if self.record.get("epsilons"):
            lines += [f"  {wording.epsilons(self.record['epsilons'])}"]
        top = self.record["top_k"]
        if top:
            lines += [
                f"  {100 * top['clean_accuracy']:5.1f} %  clean, top {top['k']}",
                f"  {100 * top['robust_accuracy']:5.1f} %  under attack, top {top['k']}",
            ]
        lines += [f"Note: {note}" for note in self.record.get("notes") or []]
        suspicious = [check["reason"] for check in self.checks if check["suspicious"]]
        if suspicious:
            lines += ["Gradient masking is suspected, the true robustness is probably lower:"]
            lines += [f"  {reason}" for reason in suspicious]
        elif self.checks:
            lines += [wording.checks_summary(self.record)]
        return "\n".join(lines)


def _load_record(folder: pathlib.Path) -> dict[str, Any]:
    if not (folder / RECORD_FILE).exists():
        raise ValueError(f"The folder must hold the file {RECORD_FILE} of a saved report. Received: folder={folder}")
    return json.loads((folder / RECORD_FILE).read_text())


def compare(folders: Sequence[str | pathlib.Path], output: str | pathlib.Path) -> None:
    """Writes a comparison of saved reports into `output`, as `compare.md` and a self-contained `compare.html`.

    Args:
        folders: folders of reports. The last part of a folder is the name of its report. If two reports have the same
            last part, the names are the whole folders.
        output: a folder, which is made if it is missing.

    Raises:
        ValueError: if there are no folders, a folder is given twice, or a folder holds no report.
    """
    records = [_load_record(pathlib.Path(folder)) for folder in folders]
    names = [pathlib.Path(folder).name for folder in folders]
    if len(set(names)) != len(names):
        names = [str(folder) for folder in folders]
    pathlib.Path(output).mkdir(parents=True, exist_ok=True)
    reports.write_comparison(records, pathlib.Path(output), names)

"""The result of an evaluation, and the files it is kept in."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from keras_robust import reports
from keras_robust.reports import wording

RECORD_FILE = "record.json"
SAMPLES_FILE = "samples.npz"
ADVERSARIALS_FILE = "adversarials.npz"


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of an evaluation. All accuracies are fractions.

    Attributes:
        record: everything that was measured and how, as `record.json` holds it.
        samples: a few examples as arrays: `images` and `attacked` (n, height, width, channels), or of the other shape
            that images have, `labels`, `clean_predictions`, `attacked_predictions` (n,) and `attack_name` ().
        adversarials: with `keep_adversarials`, all images as they were attacked, float32 (examples, height, width,
            channels) in the order of the data set, by the name of the attack: as last attacked, whose predictions are
            `record["details"][name]["predictions"]`, or clean where an example was not attacked. And as "worst" the
            worst case of each example, whose predictions are `record["adversarial_predictions"]`: the image of the
            first attack that broke it, or of the last attack where none did, or the clean image where that is wrong.
            None where they were not kept, or their file is missing.
    """

    record: dict[str, Any]
    samples: dict[str, np.ndarray]
    adversarials: dict[str, np.ndarray] | None = None

    @property
    def clean_accuracy(self) -> float:
        """The fraction of examples that are right unattacked."""
        return self.record["clean_accuracy"]

    @property
    def robust_accuracy(self) -> float:
        """The fraction that is right unattacked and under every attack: the worst case per example."""
        return self.record["robust_accuracy"]

    @property
    def attacks(self) -> dict[str, float]:
        """Robust accuracy by the name of the attack."""
        return self.record["attacks"]

    @property
    def checks(self) -> list[dict[str, Any]]:
        """The checks for gradient masking that were run."""
        return self.record["checks"]

    def save(self, folder: str | pathlib.Path) -> None:
        """Writes `samples.npz`, `report.md`, a self-contained `index.html` and, last, `record.json` into `folder`.

        Adversarial images that were kept are written as `adversarials.npz`; without them such a file of an earlier
        report is deleted. The record is renamed into place: where it is, the report is whole.

        Raises:
            ValueError: if `folder` cannot be made.
        """
        folder = pathlib.Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"folder is one that can be made. Received: folder={folder} ({error})") from error
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
        """Reads what `save` wrote.

        Raises:
            ValueError: if the folder holds no report.
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
        lines = [f"{self.record['examples']} examples of {self.record['dataset']}, {box}"]
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
        raise ValueError(f"The folder holds no {RECORD_FILE}. Received: folder={folder}")
    return json.loads((folder / RECORD_FILE).read_text())


def compare(folders: Sequence[str | pathlib.Path], output: str | pathlib.Path) -> None:
    """Writes several saved reports side by side into `output`, as `compare.md` and a self-contained `compare.html`.

    Args:
        folders: of reports; the last part of each is its name.
        output: a folder, made where it is missing.

    Raises:
        ValueError: if a folder holds no report, or two have one name.
    """
    records = [_load_record(pathlib.Path(folder)) for folder in folders]
    names = [pathlib.Path(folder).name for folder in folders]
    if len(set(names)) != len(names):
        names = [str(folder) for folder in folders]
    pathlib.Path(output).mkdir(parents=True, exist_ok=True)
    reports.write_comparison(records, pathlib.Path(output), names)

"""The result of an evaluation, and the files it is kept in."""

import dataclasses
import json
import pathlib
from typing import Any, Self

import numpy as np

from keras_robust.reports import write_report

RECORD_FILE = "record.json"
SAMPLES_FILE = "samples.npz"


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of an evaluation. All accuracies are fractions.

    Attributes:
        record: everything that was measured and how, as `record.json` holds it.
        samples: a few examples as arrays: `images` and `attacked` (n, height, width, channels), `labels`,
            `clean_predictions`, `attacked_predictions` (n,) and `attack_name` ().
    """

    record: dict[str, Any]
    samples: dict[str, np.ndarray]

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
        """Writes `record.json`, `samples.npz`, `report.md` and a self-contained `index.html` into `folder`."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD_FILE).write_text(json.dumps(self.record, indent=1) + "\n")
        np.savez_compressed(folder / SAMPLES_FILE, **self.samples)  # type: ignore[arg-type]
        write_report(self.record, self.samples, folder)

    @classmethod
    def load(cls, folder: str | pathlib.Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the folder holds no report.
        """
        folder = pathlib.Path(folder)
        if not (folder / RECORD_FILE).exists():
            raise ValueError(f"The folder holds no {RECORD_FILE}. Received: folder={folder}")
        with np.load(folder / SAMPLES_FILE) as samples:
            return cls(json.loads((folder / RECORD_FILE).read_text()), dict(samples))

    def __str__(self) -> str:
        source = self.record["black_box_source"]
        box = f"black box, crafted on {source}" if source else "white box"
        lines = [f"{self.record['examples']} examples of {self.record['dataset']}, {box}"]
        lines += [f"  {100 * self.clean_accuracy:5.1f} %  clean"]
        lines += [f"  {100 * accuracy:5.1f} %  {name}" for name, accuracy in self.attacks.items()]
        if len(self.attacks) > 1:
            lines += [f"  {100 * self.robust_accuracy:5.1f} %  worst case per example over these attacks"]
        return "\n".join(lines)

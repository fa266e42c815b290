"""AutoAttack: a parameter-free suite of attacks, the common standard to compare robustness (Croce & Hein, 2020).

report = kr.evaluate(model, test, kr.evaluation.AutoAttack(kr.Linf(8 / 255)))
"""

import dataclasses
from typing import ClassVar

import keras

from keras_robust.attacks import APGD, FAB, Attack, Square
from keras_robust.core import ThreatModel
from keras_robust.core.serialization import PACKAGE
from keras_robust.evaluation.suite import Suite, by_name

VERSIONS = ("standard", "plus", "rand")
NORMS = ("linf", "l2", "l1")
TARGETS, TARGETS_L1 = 9, 5
RESTARTS = 5
QUERIES = 5000
EOT_ITERATIONS = 20
DLR_CLASSES, TARGETED_DLR_CLASSES = 3, 4
"""Numbers of classes that DLR and targeted DLR need. DLR divides by the largest minus the third largest logit. Targeted
DLR needs the four largest logits for its denominator."""


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class AutoAttack(Suite):
    """AutoAttack, with the order, restarts and parameters of its published code.

    - "standard": APGD-CE, APGD-T (targeted DLR, 9 target classes), FAB-T (9 target classes) and Square (5,000 queries
      with the schedule of 10,000). For L1, APGD uses larger radii, APGD-CE 5 restarts, and APGD-T 5 target classes
      (Croce & Hein, 2021).
    - "plus": APGD-CE, APGD-DLR and FAB with 5 restarts each, then Square, APGD-T and FAB-T.
    - "rand", for classifiers that are random at inference: APGD-CE and APGD-DLR. They average gradients over 20 passes.

    The published code cannot attack classifiers with few classes unless its user changes it. Here, if there are fewer
    than 10 classes, all wrong classes are targets. With fewer than 4 classes, APGD-T maximises the targeted
    cross-entropy instead of the targeted DLR. With 2 classes, APGD-DLR maximises the margin instead of the DLR. The
    record says which of these changes apply.

    Args:
        threat_model: `Linf`, `L2` or `L1`.
        version: "standard", "plus" or "rand".

    Raises:
        ValueError: if an argument is not one of these.
    """

    threat_model: ThreatModel
    version: str = "standard"
    strong: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.threat_model, ThreatModel) or self.threat_model.norm not in NORMS:
            raise ValueError(
                "threat_model must be Linf, L2 or L1, such as Linf(0.3). "
                f"Received: threat_model={self.threat_model!r} of type {type(self.threat_model).__name__}"
            )
        if self.version not in VERSIONS:
            raise ValueError(f"version must be one of {VERSIONS}. Received: version={self.version!r}")

    @property
    def name(self) -> str:
        """The name, such as "AutoAttack standard (Linf 0.3)"."""
        return f"AutoAttack {self.version} ({self.threat_model})"

    def attacks_for(self, classes: int) -> dict[str, Attack]:
        """Returns the attacks by name, in the order in which they run: see `Suite.attacks_for`."""
        attacks = {"standard": self._standard, "plus": self._plus, "rand": self._rand}[self.version](classes)
        return by_name((attack.name, attack) for attack in attacks)

    def notes_for(self, classes: int) -> list[str]:
        """Returns a sentence for each change that few classes require: see `Suite.notes_for`."""
        notes = []
        targeted = self.version != "rand"
        fewer = self.threat_model.norm == "l1" and self.version == "standard" and classes > TARGETS_L1
        if targeted and classes <= TARGETS:
            targets = f"The targets{' of FAB-T' if fewer else ''} were all {classes - 1} wrong classes of {classes}"
            notes.append(f"{targets}, instead of {TARGETS}.")
        if targeted and classes < TARGETED_DLR_CLASSES:
            notes.append(
                f"The targeted DLR needs {TARGETED_DLR_CLASSES} classes: APGD-T maximised the targeted cross-entropy."
            )
        if self.version != "standard" and classes < DLR_CLASSES:
            notes.append(f"The DLR needs {DLR_CLASSES} classes: APGD maximised the margin instead.")
        return notes

    def _standard(self, classes: int) -> list[Attack]:
        ball, sparse = self.threat_model, self.threat_model.norm == "l1"
        return [
            APGD(ball, restarts=RESTARTS if sparse else 1, larger_radii=sparse),
            self._targeted(classes, TARGETS_L1 if sparse else TARGETS, larger_radii=sparse),
            FAB(ball, targets=min(TARGETS, classes - 1)),
            self._square(),
        ]

    def _plus(self, classes: int) -> list[Attack]:
        ball = self.threat_model
        return [
            APGD(ball, restarts=RESTARTS),
            APGD(ball, objective=_dlr_or_margin(classes), restarts=RESTARTS),
            FAB(ball, restarts=RESTARTS),
            self._square(),
            self._targeted(classes, TARGETS),
            FAB(ball, targets=min(TARGETS, classes - 1)),
        ]

    def _rand(self, classes: int) -> list[Attack]:
        ball = self.threat_model
        return [
            APGD(ball, eot_iter=EOT_ITERATIONS),
            APGD(ball, objective=_dlr_or_margin(classes), eot_iter=EOT_ITERATIONS),
        ]

    def _square(self) -> Attack:
        # The published suite uses the schedule of 10,000 queries unchanged, although it makes only 5,000.
        return Square(self.threat_model, queries=QUERIES, resc_schedule=False)

    def _targeted(self, classes: int, targets: int, *, larger_radii: bool = False) -> Attack:
        objective = "dlr" if classes >= TARGETED_DLR_CLASSES else "cross_entropy"
        return APGD(
            self.threat_model, objective=objective, targeted=min(targets, classes - 1), larger_radii=larger_radii
        )


def _dlr_or_margin(classes: int) -> str:
    return "dlr" if classes >= DLR_CLASSES else "margin"

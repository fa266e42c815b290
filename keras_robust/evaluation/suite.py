"""What suites of attacks have in common."""

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import keras

from keras_robust.attacks import Attack
from keras_robust.core import ThreatModel
from keras_robust.core.serialization import PACKAGE, Serializable


class Suite(Serializable):
    """Base class of suites, as frozen dataclasses: attacks that are judged together, worst case per example.

    A suite runs as a cascade: an attack sees only the examples that withstood the ones before it.
    """

    threat_model: ThreatModel
    strong: ClassVar[bool] = False
    """Whether the suite is to be believed, so that the checks for gradient masking run with it."""

    @property
    def name(self) -> str:
        """A name for tables, with the threat model."""
        raise NotImplementedError

    def attacks_for(self, classes: int) -> dict[str, Attack]:
        """Returns the attacks by name, in their order, for a classifier of so many classes."""
        raise NotImplementedError

    def notes_for(self, classes: int) -> list[str]:
        """Returns sentences on what differs from the published suite for so many classes."""
        del classes
        return []


def by_name(named: Iterable[tuple[str, Attack]]) -> dict[str, Attack]:
    """Returns attacks by name, in their order.

    Raises:
        ValueError: if different attacks have one name, of which a record could hold but one.
    """
    attacks: dict[str, Attack] = {}
    for name, attack in named:
        if attacks.setdefault(name, attack) != attack:
            raise ValueError(f"Each attack has a name of its own. Received: two named {name!r}")
    return attacks


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Combined(Suite):
    """Several suites, one after the other.

    Args:
        suites: of one threat model.

    Raises:
        ValueError: if there is none, or they differ in their threat model.
    """

    suites: tuple[Suite, ...]
    strong: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "suites", tuple(self.suites))
        if len({suite.threat_model for suite in self.suites}) != 1:
            raise ValueError(f"suites have one threat model. Received: suites={self.suites}")

    @property
    def threat_model(self) -> ThreatModel:  # type: ignore[override]
        """The threat model of all suites."""
        return self.suites[0].threat_model

    @property
    def name(self) -> str:
        """The names of the suites, joined by "+"."""
        return " + ".join(suite.name for suite in self.suites)

    def attacks_for(self, classes: int) -> dict[str, Attack]:
        """Returns the attacks of all suites, in their order, each once: see `Suite.attacks_for`.

        Raises:
            ValueError: if different attacks have one name.
        """
        return by_name(item for suite in self.suites for item in suite.attacks_for(classes).items())

    def notes_for(self, classes: int) -> list[str]:
        """Returns the notes of all suites: see `Suite.notes_for`."""
        return [note for suite in self.suites for note in suite.notes_for(classes)]

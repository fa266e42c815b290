"""The base class of suites of attacks, and `Combined`, which joins several suites."""

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import keras

from keras_robust.attacks import Attack
from keras_robust.core import ThreatModel
from keras_robust.core.serialization import PACKAGE, Serializable


class Suite(Serializable):
    """Base class of suites: attacks that are judged together, by the worst case per example.

    A suite runs as a cascade: each attack runs only on the examples that withstood the attacks before it. Subclasses
    are frozen dataclasses.
    """

    threat_model: ThreatModel
    strong: ClassVar[bool] = False
    """Whether the suite is strong enough to judge robustness. The checks for gradient masking then run by default."""

    @property
    def name(self) -> str:
        """The name of the suite and its threat model, for tables."""
        raise NotImplementedError

    def attacks_for(self, classes: int) -> dict[str, Attack]:
        """Returns the attacks by name, in the order in which they run, for a classifier with `classes` classes."""
        raise NotImplementedError

    def notes_for(self, classes: int) -> list[str]:
        """Returns sentences on how the suite differs from the published one for `classes` classes."""
        del classes
        return []


def by_name(named: Iterable[tuple[str, Attack]]) -> dict[str, Attack]:
    """Returns attacks by name, in the same order.

    Raises:
        ValueError: if different attacks have the same name, because a record could then hold only one of them.
    """
    attacks: dict[str, Attack] = {}
    for name, attack in named:
        if attacks.setdefault(name, attack) != attack:
            raise ValueError(f"Different attacks must have different names. Received: two named {name!r}")
    return attacks


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Combined(Suite):
    """Several suites that run one after another.

    Args:
        suites: at least one suite. All must have the same threat model.

    Raises:
        ValueError: if there is no suite, or if the threat models differ.
    """

    suites: tuple[Suite, ...]
    strong: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "suites", tuple(self.suites))
        if len({suite.threat_model for suite in self.suites}) != 1:
            raise ValueError(f"suites must all have the same threat model. Received: suites={self.suites}")

    @property
    def threat_model(self) -> ThreatModel:  # type: ignore[override]
        """The threat model of all suites."""
        return self.suites[0].threat_model

    @property
    def name(self) -> str:
        """The names of the suites, joined by "+"."""
        return " + ".join(suite.name for suite in self.suites)

    def attacks_for(self, classes: int) -> dict[str, Attack]:
        """Returns the attacks of all suites in their order. An attack of several suites is listed once.

        Raises:
            ValueError: if different attacks have the same name.
        """
        return by_name(item for suite in self.suites for item in suite.attacks_for(classes).items())

    def notes_for(self, classes: int) -> list[str]:
        """Returns the notes of all suites."""
        return [note for suite in self.suites for note in suite.notes_for(classes)]

"""How far an attack has come with some of the examples, as its journal keeps it."""

import dataclasses
from typing import Any, Self

import numpy as np


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The progress of some examples; its arrays, but for `left` and `state`, have a row for each of them.

    Attributes:
        before: how many examples were attacked in the chunks before.
        examples: their numbers.
        left: (examples left,) which of them are not broken.
        attacked: images as last attacked.
        predictions: of these images.
        ranks: the largest so far.
        reached: bool: classified as the class that the attack goes towards, at any step.
        step: how many steps were made.
        seconds: that this took.
        state: of the attack, with a row for each example left; empty before the first and after the last step.
    """

    before: int
    examples: np.ndarray
    left: np.ndarray
    attacked: np.ndarray
    predictions: np.ndarray
    ranks: np.ndarray
    reached: np.ndarray
    step: int
    seconds: float
    state: dict[str, np.ndarray]

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Returns everything as named arrays."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        state = fields.pop("state")
        return {name: np.asarray(value) for name, value in fields.items()} | {
            f"state/{name}": values for name, values in state.items()
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """Returns what `as_arrays` was called on; version 0.1 did not keep `reached`."""
        state = {name.removeprefix("state/"): value for name, value in arrays.items() if name.startswith("state/")}
        fields: dict[str, Any] = {name: value for name, value in arrays.items() if not name.startswith("state/")}
        fields.setdefault("reached", np.zeros(len(fields["examples"]), bool))
        numbers = {"before": int, "step": int, "seconds": float}
        return cls(**fields | {name: kind(fields[name]) for name, kind in numbers.items()} | {"state": state})

"""The eight attacks that evaluated adversarial logit pairing in its paper (Kannan et al., 2018, section 5.3.4).

report = kr.evaluate(model, test, kr.evaluation.PaperSuite(kr.Linf(16 / 255)), top_k=5)
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import keras

from keras_robust.attacks import BIM, FGSM, PGD, RFGSM, Attack
from keras_robust.core import Linf, ThreatModel
from keras_robust.core.serialization import PACKAGE
from keras_robust.evaluation.suite import Suite, by_name

RANDOM_TARGETS = ("random_any", "random")


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class PaperSuite(Suite):
    """Step-LL, Step-Rand, R+Step-LL, R+Step-Rand, Iter-LL, Iter-Rand, PGD-LL and PGD-Rand over a grid.

    "LL" targets the least likely class, and "Rand" a random class. R+Step starts at random signs times epsilon / 2
    (Tramèr et al., 2018), Iter at the clean image (Kurakin et al., 2017), and PGD at a uniformly random point of the
    ball (Madry et al., 2018).

    The paper says that it varied epsilon, step size and number of steps. It gives only the largest values: 16/255,
    2/255 and 10. The defaults here are these values, relative to epsilon, and half of each. All attacks are weak:
    longer attacks broke models that withstand them (Engstrom et al., 2018).

    Args:
        threat_model: `Linf` with the largest epsilon.
        epsilons: epsilons of the attacks, at most that of `threat_model`. None is (epsilon / 2, epsilon).
        step_sizes: step sizes of Iter and PGD, in the units of the images. None is (epsilon / 16, epsilon / 8).
        steps: numbers of steps of Iter and PGD.
        random_target: "random_any" draws any class, even the label, as in the published code. "random" draws a wrong
            class.

    Raises:
        ValueError: if an argument is not in its range.
    """

    threat_model: ThreatModel
    epsilons: tuple[float, ...] | None = None
    step_sizes: tuple[float, ...] | None = None
    steps: tuple[int, ...] = (5, 10)
    random_target: str = "random_any"

    def __post_init__(self) -> None:
        ball = self.threat_model
        if not isinstance(ball, Linf):
            raise ValueError(
                f"threat_model must be Linf. Received: threat_model={ball!r} of type {type(ball).__name__}",
            )
        defaults = {
            "epsilons": (ball.epsilon / 2, ball.epsilon),
            "step_sizes": (ball.epsilon / 16, ball.epsilon / 8),
            "steps": self.steps,
        }
        for name, default in defaults.items():
            values = default if getattr(self, name) is None else getattr(self, name)
            allowed = isinstance(values, list | tuple) and values and all(value >= 0 for value in values)
            if not allowed or (0 in values and not (ball.epsilon == 0 and name != "steps")):
                raise ValueError(f"{name} must be positive numbers. Received: {name}={values!r}")
            object.__setattr__(self, name, tuple(values))
        if max(self._epsilons) > ball.epsilon:
            raise ValueError(f"epsilons must be at most {ball.epsilon:g}. Received: epsilons={self.epsilons}")
        if self.random_target not in RANDOM_TARGETS:
            raise ValueError(
                f"random_target must be one of {RANDOM_TARGETS}. Received: random_target={self.random_target!r}"
            )

    @property
    def name(self) -> str:
        """The name, such as "Suite of Kannan et al. (Linf 0.0627)"."""
        return f"Suite of Kannan et al. ({self.threat_model})"

    @property
    def _epsilons(self) -> tuple[float, ...]:
        return self.epsilons or ()

    def attacks_for(self, classes: int) -> dict[str, Attack]:
        """Returns the attacks by the names of the paper, the largest epsilon first: see `Suite.attacks_for`.

        Raises:
            ValueError: if two epsilons or step sizes are so close that their attacks get the same name.
        """
        del classes
        return by_name(self._named())

    def _named(self) -> Iterator[tuple[str, Attack]]:
        for epsilon in sorted(self._epsilons, reverse=True):
            ball = dataclasses.replace(self.threat_model, epsilon=epsilon)
            for suffix, target in (("LL", "least_likely"), ("Rand", self.random_target)):
                yield f"Step-{suffix} ({ball})", FGSM(ball, target=target)
                yield f"R+Step-{suffix} ({ball})", RFGSM(ball, target=target)
                for steps, size in itertools.product(self.steps, self.step_sizes or ()):
                    options: dict[str, Any] = {"steps": steps, "step_size": size or None, "target": target}
                    yield f"Iter-{suffix}-{steps} ({ball}, step {size:.3g})", BIM(ball, **options)
                    yield f"PGD-{suffix}-{steps} ({ball}, step {size:.3g})", PGD(ball, **options)

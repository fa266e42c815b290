"""Attacks of the literature that are PGD with fixed settings."""

from typing import Any

from keras_robust.attacks.pgd import PGD
from keras_robust.core import ThreatModel
from keras_robust.core.objectives import Margin


def FGSM(threat_model: ThreatModel, **options: Any) -> PGD:  # noqa: N802
    """The fast gradient sign method (Goodfellow et al., 2015): one step of epsilon from the clean image.

    Args:
        threat_model: `Linf`, or `L2` and `L1` for the fast gradient method.
        **options: of `PGD`, such as `target`.
    """
    return PGD(threat_model, steps=1, step_size=threat_model.epsilon or None, random_start="none", **options)


def RFGSM(threat_model: ThreatModel, *, start_radius: float | None = None, **options: Any) -> PGD:  # noqa: N802
    """R+FGSM (Tramèr et al., 2018, section 4.2): random signs of size alpha, then one step of epsilon - alpha.

    Args:
        threat_model: `Linf`.
        start_radius: alpha, below epsilon (or both 0); None is epsilon / 2.
        **options: of `PGD`, such as `target`.
    """
    if start_radius is not None and start_radius != 0 and not 0 < start_radius < threat_model.epsilon:
        raise ValueError(f"start_radius is in [0, epsilon), or None. Received: start_radius={start_radius!r}")
    alpha = threat_model.epsilon / 2 if start_radius is None else start_radius
    step_size = threat_model.epsilon - alpha or None
    return PGD(threat_model, steps=1, step_size=step_size, random_start="sign", start_radius=alpha, **options)


def BIM(threat_model: ThreatModel, *, steps: int = 10, step_size: float | None = None, **options: Any) -> PGD:  # noqa: N802
    """The basic iterative method (Kurakin et al., 2017): PGD from the clean image.

    Args:
        threat_model: `Linf`, `L2` or `L1`.
        steps: number of gradient steps.
        step_size: None is epsilon / steps, so that the path just reaches the edge of the ball.
        **options: of `PGD`, such as `target`.
    """
    if step_size is None and steps:  # PGD refuses 0 steps
        step_size = threat_model.epsilon / steps or None
    return PGD(threat_model, steps=steps, step_size=step_size, random_start="none", **options)


def CW(threat_model: ThreatModel, *, steps: int = 100, kappa: float | None = 0.0, **options: Any) -> PGD:  # noqa: N802
    """CW-K of Shafahi et al. (2019) and Madry et al. (2018): K steps of PGD on the margin of Carlini & Wagner (2017).

    It is not the attack of Carlini & Wagner, which looks for the smallest perturbation: `FAB` does.

    Args:
        threat_model: `Linf`, `L2` or `L1`.
        steps: K.
        kappa: margin at which an example is left alone: 0 in the code of Shafahi et al., 50 in that of Madry et al.
        **options: of `PGD`, such as `step_size` and `restarts`.
    """
    return PGD(threat_model, steps=steps, objective=Margin(kappa), **options)

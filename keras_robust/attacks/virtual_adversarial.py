"""The virtual adversarial perturbation: the direction in which the prediction changes most, whatever the label."""

import dataclasses

import keras
import tensorflow as tf

from keras_robust.attacks.attack import Attack, ModelFn, value_and_gradient
from keras_robust.attacks.score_based import check_options
from keras_robust.core import L2, ThreatModel, seeds
from keras_robust.core.objectives import kl_divergence
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.core.threat_models import per_example

PROBE = 0.03


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class VirtualAdversarial(Attack):
    """Power iteration for the direction in which the prediction changes fastest (Miyato et al., 2017, algorithm 1).

    From a random direction d, each iteration sets d to the gradient of KL(p(x) || p(x + probe d)) at unit length. This
    tends to the first eigenvector of the Hessian. The image moves by epsilon along the last d. Use it for training: it
    is too weak to measure robustness.

    Args:
        threat_model: `L2`, as in the paper, or another one. The image moves along its steepest ascent.
        power_iterations: number of iterations, at least 1.
        probe: xi, the length of d, in the units of the images. The authors' code has 1e-6, at which float32 loses the
            difference of the predictions. At 0.01 rounding still changes the loss of a ResNet-20 by 2e-4. The longer d
            is, the further the direction is from the eigenvector of the Hessian at d = 0.
        compute_dtype: "bfloat16" or "float16" runs the attack's passes in low precision over the float32 weights,
            "float32" in full precision if the classifier computes in 16 bits, "auto" in the faster of "bfloat16" and
            "float32" on the machine that attacks. It acts where `model_fn` is made.

    Raises:
        ValueError: if an argument is out of its range.
    """

    threat_model: ThreatModel
    power_iterations: int = 1
    probe: float = PROBE
    compute_dtype: str | None = None

    def __post_init__(self) -> None:
        check_options(self, ("linf", "l2", "l1"), ("power_iterations",), ("probe",))

    @property
    def name(self) -> str:
        """Such as "Virtual adversarial (L2 1.5, 1 power iteration)". It contains settings that are not the default."""
        plural = "s" if self.power_iterations > 1 else ""
        parts = [str(self.threat_model), f"{self.power_iterations} power iteration{plural}"]
        if self.probe != PROBE:
            parts.append(f"probe {self.probe:.4g}")
        if self.resolved_compute_dtype:
            parts.append(self.resolved_compute_dtype)
        return f"Virtual adversarial ({', '.join(parts)})"

    def perturb(
        self,
        model_fn: ModelFn,
        images: Tensor,
        labels: Tensor,
        seed: int | Tensor,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Returns attacked images: see `Attack.perturb`. The labels are ignored."""
        del labels
        if targets is not None:
            raise ValueError("VirtualAdversarial takes no targets: give none. Received: targets")
        images = tf.convert_to_tensor(images)
        unit = L2(1.0, self.threat_model.bounds).steepest_ascent
        clean_logits = tf.stop_gradient(model_fn(images))
        direction = tf.cast(seeds.normal(tf.shape(images), seeds.as_seed(seed)), images.dtype)
        for _ in range(self.power_iterations):
            probe = images + self.probe * unit(direction)
            _, direction = value_and_gradient(lambda points: kl_divergence(clean_logits, model_fn(points)), probe)
        step = per_example(self.threat_model.epsilon, images) * self.threat_model.steepest_ascent(direction)
        return tf.stop_gradient(self.threat_model.project(images + step, images))

"""Four pairing penalties: on clean and attacked logits, on such features, on two clean images, on logits and 0."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core.checks import check_weight
from keras_robust.core.execution import full_precision
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.core.threat_models import flatten
from keras_robust.layers import ADVERSARIAL, CLEAN, check_functional
from keras_robust.losses import PairingLoss, get_pairing_loss
from keras_robust.methods.adversarial_training import AdversarialTraining
from keras_robust.methods.natural_training import NaturalTraining


@keras.saving.register_keras_serializable(PACKAGE)
class AdversarialLogitPairing(AdversarialTraining):
    """Mixed-minibatch PGD plus a penalty on clean-adversarial logit distance (Kannan et al., 2018, section 4.2.1).

    Its robustness on ImageNet did not withstand stronger attacks (Engstrom et al., 2018). Measure it with many steps
    and restarts.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`.
        pairing_weight: lambda, at least 0: 1 in the paper on MNIST, 0.5 on SVHN. 0 is mixed-minibatch PGD.
        pairing_loss: "l2", "l1", "huber" or a `PairingLoss`. With a name, the distance is a mean over the classes, as
            in the original code. `PairingLoss("l2", over_classes="sum")` is the paper's formula.
        **kwargs: arguments of `RobustModel`, and `clean_weight` of `AdversarialTraining`.

    Raises:
        ValueError: if `pairing_weight` is negative or `pairing_loss` is unknown; see also `AdversarialTraining`.
    """

    def __init__(
        self,
        classifier: keras.Layer,
        attack: Attack,
        *,
        pairing_weight: float = 0.5,
        pairing_loss: str | PairingLoss = "l2",
        **kwargs: Any,
    ) -> None:
        check_weight("pairing_weight", pairing_weight)
        super().__init__(classifier, attack, clean_fraction=1.0, **kwargs)
        self.pairing_weight = pairing_weight
        self.pairing_loss = get_pairing_loss(pairing_loss)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the loss of mixed-minibatch PGD plus the weighted pairing loss."""
        pairing = self.pairing_loss(logits[CLEAN], logits[ADVERSARIAL], sample_weight)
        return super().robust_loss(labels, logits, sample_weight) + self.pairing_weight * pairing

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the model."""
        config = super().get_config()
        del config["clean_fraction"]  # always 1
        pairing_loss = keras.saving.serialize_keras_object(self.pairing_loss)
        return {**config, "pairing_weight": self.pairing_weight, "pairing_loss": pairing_loss}


@keras.saving.register_keras_serializable(PACKAGE)
class CleanLogitPairing(NaturalTraining):
    """Natural training plus a penalty on the logit distance of random pairs (Kannan et al., 2018, section 4.2.2).

    In a batch of m images, image i is paired with image i + m/2:

        loss + pairing_weight * 2/m * sum_i distance(z_i, z_{i + m/2}).

    It is not a defence. It hides the gradient from weak attacks, and strong attacks succeed: on MNIST the robust
    accuracy falls from 62 % to 4 % (Mosbach et al., 2018). It is included so that this can be measured.

    Args:
        classifier: as in `RobustModel`.
        pairing_weight: lambda, at least 0.
        pairing_loss: as in `AdversarialLogitPairing`.
        **kwargs: arguments of `NaturalTraining`. The paper's best results need `input_noise`.

    Raises:
        ValueError: if `pairing_weight` is negative or `pairing_loss` is unknown; see also `NaturalTraining`.
    """

    def __init__(
        self,
        classifier: keras.Layer,
        *,
        pairing_weight: float = 0.5,
        pairing_loss: str | PairingLoss = "l2",
        **kwargs: Any,
    ) -> None:
        check_weight("pairing_weight", pairing_weight)
        super().__init__(classifier, **kwargs)
        self.pairing_weight = pairing_weight
        self.pairing_loss = get_pairing_loss(pairing_loss)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the natural loss plus the weighted pairing loss. A pair has the mean of its two sample weights."""
        half = (tf.shape(logits[CLEAN])[0] + 1) // 2  # in a batch of odd size, the middle image has two partners
        pair_weight = None
        if sample_weight is not None:
            weight = tf.reshape(tf.cast(sample_weight, logits[CLEAN].dtype), (-1,))
            pair_weight = (weight[:half] + weight[-half:]) / 2
        pairing = self.pairing_loss(logits[CLEAN][:half], logits[CLEAN][-half:], pair_weight)
        return super().robust_loss(labels, logits, sample_weight) + self.pairing_weight * pairing

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the model."""
        pairing_loss = keras.saving.serialize_keras_object(self.pairing_loss)
        return {**super().get_config(), "pairing_weight": self.pairing_weight, "pairing_loss": pairing_loss}


@keras.saving.register_keras_serializable(PACKAGE)
class LogitSqueezing(NaturalTraining):
    """Natural training plus a penalty on the size of the logits (Kannan et al., 2018, section 4.2.3).

        loss + squeezing_weight * 1/m * sum_i distance(z_i, 0)

    It is not a defence. It hides the gradient from weak attacks, and strong attacks succeed: on MNIST the robust
    accuracy falls from 71 % to 5 % (Mosbach et al., 2018, with the norm of the logits instead of its square). It is
    included so that this can be measured.

    Args:
        classifier: as in `RobustModel`.
        squeezing_weight: lambda, at least 0.
        squeezing_loss: "l2", "l1", "huber" or a `PairingLoss`: the distance of the logits from 0.
        **kwargs: arguments of `NaturalTraining`. The paper's results need `input_noise`.

    Raises:
        ValueError: if `squeezing_weight` is negative or `squeezing_loss` is unknown; see also `NaturalTraining`.
    """

    def __init__(
        self,
        classifier: keras.Layer,
        *,
        squeezing_weight: float = 0.5,
        squeezing_loss: str | PairingLoss = "l2",
        **kwargs: Any,
    ) -> None:
        check_weight("squeezing_weight", squeezing_weight)
        super().__init__(classifier, **kwargs)
        self.squeezing_weight = squeezing_weight
        self.squeezing_loss = get_pairing_loss(squeezing_loss)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the natural loss plus the weighted size of the logits."""
        size = self.squeezing_loss(tf.zeros_like(logits[CLEAN]), logits[CLEAN], sample_weight)
        return super().robust_loss(labels, logits, sample_weight) + self.squeezing_weight * size

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the model."""
        squeezing_loss = keras.saving.serialize_keras_object(self.squeezing_loss)
        return {**super().get_config(), "squeezing_weight": self.squeezing_weight, "squeezing_loss": squeezing_loss}


@keras.saving.register_keras_serializable(PACKAGE)
class FeaturePairing(AdversarialTraining):
    """Mixed-minibatch PGD plus a penalty on the distance between clean and attacked features of chosen layers.

        loss + pairing_weight * sum over layers of mean_i distance(f(x_i), f(x_adv_i))

    Kannan et al. (2018, section 7) leave it to future work. If the only layer is the last one, it is adversarial logit
    pairing.

    Args:
        classifier: a functional or sequential model with a known input shape, so that the outputs of its layers are
            known.
        attack: as in `RobustModel`.
        layers: names of layers of the classifier, at least one.
        pairing_weight: weight of the sum of distances, at least 0.
        pairing_loss: as in `AdversarialLogitPairing`. All entries of a layer's output take the place of the classes.
        **kwargs: arguments of `RobustModel`, and `clean_weight` of `AdversarialTraining`.

    Raises:
        ValueError: if the classifier is not functional or sequential, or has no such layer; if `pairing_weight` is
            negative or `pairing_loss` is unknown; see also `AdversarialTraining`.
    """

    def __init__(
        self,
        classifier: keras.Layer,
        attack: Attack,
        *,
        layers: Sequence[str],
        pairing_weight: float = 0.5,
        pairing_loss: str | PairingLoss = "l2",
        **kwargs: Any,
    ) -> None:
        check_weight("pairing_weight", pairing_weight)
        _check_layers(classifier, layers)
        super().__init__(classifier, attack, clean_fraction=1.0, **kwargs)
        self.feature_layers = tuple(layers)
        self.pairing_weight = pairing_weight
        self.pairing_loss = get_pairing_loss(pairing_loss)

    def call(self, inputs: Tensor | dict[str, Tensor], training: bool | None = None) -> Tensor | dict[str, Tensor]:
        """Returns logits as `RobustModel.call` does. A dict of logits also has the features, under "pass/layer"."""
        if not isinstance(inputs, dict):
            return super().call(inputs, training=training)
        layers = [self.classifier.get_layer(name) for name in self.feature_layers]
        outputs = [self.classifier.outputs[0], *(layer.output for layer in layers)]
        with_features = keras.Model(self.classifier.inputs, outputs)

        def classify(images: Tensor) -> dict[str, Tensor]:
            (logits, *features), auxiliary = self.run_network(with_features, images, training)
            by_layer = {f"/{layer}": tensor for layer, tensor in zip(self.feature_layers, features, strict=True)}
            return {"": keras.ops.cast(logits, full_precision(images.dtype)), **by_layer, **auxiliary}

        return self.run_passes(classify, inputs, training)

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the loss of mixed-minibatch PGD plus the weighted sum of the pairing losses of the layers."""
        distances = [
            self.pairing_loss(
                flatten(logits[f"{CLEAN}/{layer}"]), flatten(logits[f"{ADVERSARIAL}/{layer}"]), sample_weight
            )
            for layer in self.feature_layers
        ]
        return super().robust_loss(labels, logits, sample_weight) + self.pairing_weight * tf.add_n(distances)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the model."""
        config = super().get_config()
        del config["clean_fraction"]  # always 1
        pairing_loss = keras.saving.serialize_keras_object(self.pairing_loss)
        return {
            **config,
            "layers": list(self.feature_layers),
            "pairing_weight": self.pairing_weight,
            "pairing_loss": pairing_loss,
        }


def _check_layers(classifier: keras.Layer, layers: Sequence[str]) -> None:
    check_functional(classifier)
    names = [layer.name for layer in classifier.layers]
    if isinstance(layers, str) or not layers or not set(layers) <= set(names):
        raise ValueError(f"layers must be a list of names of layers, from {names}. Received: layers={layers!r}")

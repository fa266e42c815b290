"""Ensemble adversarial training."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import Attack
from keras_robust.core import seeds
from keras_robust.core.checks import check_ends_in_logits
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import ADVERSARIAL, use_branch
from keras_robust.methods.adversarial_training import AdversarialTraining


@keras.saving.register_keras_serializable(PACKAGE)
class EnsembleAdversarialTraining(AdversarialTraining):
    """Adversarial training in which each batch is attacked on the classifier or on one of several static models.

    Source: Tramèr et al. (2018). They claim robustness only to transferred attacks.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`. The authors use `FGSM` or `RFGSM`.
        source_models: a list of at least one built Keras model from images to logits. These models are set to
            `trainable=False`, and are saved with the method.
        clean_fraction: as in `AdversarialTraining`. The paper trains on as many clean as attacked images: 1.
        **kwargs: arguments of `AdversarialTraining`.

    Raises:
        ValueError: if `source_models` is not a list or is empty, or one of them is not a classifier or shares weights
            with `classifier`; see also `AdversarialTraining`.
    """

    def __init__(
        self,
        classifier: keras.Layer,
        attack: Attack,
        *,
        source_models: Sequence[keras.Model],
        clean_fraction: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if not isinstance(source_models, list | tuple) or not source_models:
            raise ValueError(
                f"source_models must be a list of at least one model. Received: source_models={source_models!r}"
            )
        for model in source_models:
            check_ends_in_logits(model)
            if {id(variable) for variable in model.variables} & {id(variable) for variable in classifier.variables}:
                raise ValueError(f"source_models must share no weights with the classifier. Received: {model.name!r}")
            model.trainable = False
        super().__init__(classifier, attack, clean_fraction=clean_fraction, **kwargs)
        self.source_models = list(source_models)

    def perturb(self, images: Tensor, labels: Tensor, seed: Tensor) -> Tensor:
        """Returns images attacked on the classifier or on a static model, each with the same probability."""
        sources = [self.classifier, *self.source_models]
        index = seeds.integers((), seeds.fold(seed, 0), len(sources))
        attack_seed = seeds.fold(seed, 1)

        def attack_on(source: keras.Layer) -> Tensor:
            is_own = source is self.classifier
            training = self.attack_in_training_mode and is_own
            with use_branch(ADVERSARIAL if is_own else None):
                return self.run_attack(self.training_attack(), source, images, labels, attack_seed, training)

        return tf.switch_case(index, [functools.partial(attack_on, source) for source in sources])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the model."""
        sources = [keras.saving.serialize_keras_object(model) for model in self.source_models]
        return {**super().get_config(), "source_models": sources}

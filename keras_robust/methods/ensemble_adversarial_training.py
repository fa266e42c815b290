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
    """Adversarial training on images attacked on the classifier or on static models, chosen per batch.

    Tramèr et al. (2018), who claim robustness to transferred attacks alone.

    Args:
        classifier: as in `RobustModel`.
        attack: as in `RobustModel`; the authors' is `FGSM` or `RFGSM`.
        source_models: built Keras models from images to logits, at least one; frozen, and saved with the model.
        clean_fraction: as in `AdversarialTraining`; the paper trains on as many clean as attacked images.
        **kwargs: of `AdversarialTraining`.

    Raises:
        ValueError: if `source_models` is empty, or one is no classifier or shares weights with `classifier`.
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
            raise ValueError(f"source_models is a list of one model or more. Received: source_models={source_models!r}")
        for model in source_models:
            check_ends_in_logits(model)
            if {id(variable) for variable in model.variables} & {id(variable) for variable in classifier.variables}:
                raise ValueError(f"Static models share no weights with the classifier. Received: {model.name!r}")
            model.trainable = False
        super().__init__(classifier, attack, clean_fraction=clean_fraction, **kwargs)
        self.source_models = list(source_models)

    def perturb(self, images: Tensor, labels: Tensor, seed: Tensor) -> Tensor:
        """Returns images attacked on the classifier or on one of the static models, each as likely."""
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
        """Returns what rebuilds the model."""
        sources = [keras.saving.serialize_keras_object(model) for model in self.source_models]
        return {**super().get_config(), "source_models": sources}

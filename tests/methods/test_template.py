"""`RobustModel` is a template: it is no method, and a subclass of one hook is one."""

import keras
import numpy as np
import pytest

import keras_robust as kr

ATTACK = kr.attacks.FGSM(kr.Linf(0.1))


def test_the_template_is_no_method(linear_classifier):
    with pytest.raises(ValueError, match="AdversarialTraining"):
        kr.RobustModel(linear_classifier(), ATTACK)


def test_a_file_that_names_the_template_holds_adversarial_training(linear_classifier):
    """Version 0.1 had a `RobustModel` that trained as `AdversarialTraining` without clean images does."""
    config = kr.AdversarialTraining(linear_classifier(), ATTACK).get_config()
    for name in ("clean_fraction", "clean_weight"):
        del config[name]
    model = kr.RobustModel.from_config(config)
    assert type(model) is kr.AdversarialTraining
    assert model.clean_fraction == 0


def test_a_method_of_ones_own_is_one_hook(linear_classifier, batch):
    class Halved(kr.RobustModel):
        """Adversarial training at half of the learning rate."""

        def robust_loss(self, labels, logits, sample_weight):
            return 0.5 * super().robust_loss(labels, logits, sample_weight)

    images, labels = batch(count=4, shape=(4, 4, 1))
    weights = []
    for make, rate in ((Halved, 0.2), (kr.AdversarialTraining, 0.1)):
        model = make(linear_classifier(), ATTACK)
        model.compile(keras.optimizers.SGD(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(images, labels, batch_size=4, verbose=0)
        weights.append(model.get_weights())
    for own, known in zip(*weights, strict=True):
        np.testing.assert_allclose(own, known, atol=1e-6)

"""Every architecture in an adversarial training step under XLA: the proof that it runs on accelerators."""

import keras
import numpy as np
import pytest

import keras_robust as kr

pytestmark = [pytest.mark.slow, pytest.mark.xla]
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ATTACK = kr.attacks.PGD(kr.Linf(0.03), steps=2)


def make_revnet(**options) -> keras.Model:
    return kr.architectures.RevNet(26, filters=(8, 8, 8, 8), **options)


CLASSIFIERS = {
    "cifar resnet": lambda **options: kr.architectures.CifarResNet(8, version=2, **options),
    "preact resnet": kr.architectures.PreActResNet18,
    "imagenet resnet": lambda **options: kr.architectures.ResNet(18, version=2, **options),
    "denoising": lambda **options: kr.architectures.ResNet(18, denoising="embedded_gaussian", **options),
    "revnet": make_revnet,
    "inception": lambda **options: kr.architectures.InceptionV3(width=0.1, dropout=0.0, **options),
}
SIZES = {"imagenet resnet": 32, "denoising": 64, "inception": 75}


def losses(name: str, batch, jit_compile: bool, steps: int = 1, **options) -> list[float]:
    size = SIZES.get(name, 8)
    images, labels = batch(count=4, shape=(size, size, 3), classes=5)
    keras.utils.set_random_seed(0)
    classifier = CLASSIFIERS[name](num_classes=5, input_shape=(size, size, 3), **options)
    model = kr.AdversarialTraining(classifier, ATTACK, clean_fraction=1.0)
    model.compile(keras.optimizers.SGD(1e-3), SPARSE, metrics=["accuracy"], jit_compile=jit_compile)
    return model.fit(images, labels, batch_size=4, epochs=steps, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_first_loss_is_that_without_xla(batch, name):
    """Later ones depend on rounding: few pixels of few images are normalised in the last stages."""
    expected = losses(name, batch, jit_compile=False)
    np.testing.assert_allclose(losses(name, batch, jit_compile=True), expected, rtol=1e-3)


def test_recomputed_losses_are_those_of_stored_activations(batch):
    expected = losses("revnet", batch, jit_compile=True, steps=2, recompute=False)
    np.testing.assert_allclose(losses("revnet", batch, jit_compile=True, steps=2), expected, rtol=1e-3)

"""Every architecture under XLA, which is the proof that it runs on accelerators, on two replicas, and in files."""

import keras
import numpy as np
import pytest

import keras_robust as kr

pytestmark = pytest.mark.slow
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ATTACK = kr.attacks.PGD(kr.Linf(0.03), steps=2)


def make_revnet(**options) -> keras.Model:
    return kr.architectures.RevNet(26, filters=(8, 8, 8, 8), **options)


def make_inception(dropout: float = 0.0, **options) -> keras.Model:
    return kr.architectures.InceptionV3(width=0.1, dropout=dropout, **options)


CLASSIFIERS = {
    "cifar resnet": lambda **options: kr.architectures.CifarResNet(8, version=2, **options),
    "preact resnet": kr.architectures.PreActResNet18,
    "imagenet resnet": lambda **options: kr.architectures.ResNet(18, version=2, **options),
    "denoising": lambda **options: kr.architectures.ResNet(18, denoising="embedded_gaussian", **options),
    "revnet": make_revnet,
    "inception": make_inception,
}
SIZES = {"imagenet resnet": 32, "denoising": 64, "inception": 75}


def make(name: str, **options) -> tuple[keras.Model, tuple[int, int, int]]:
    """Returns the classifier, with the same weights each time, and the shape of its images."""
    size = SIZES.get(name, 8)
    keras.utils.set_random_seed(0)
    return CLASSIFIERS[name](num_classes=5, input_shape=(size, size, 3), **options), (size, size, 3)


def losses(name: str, batch, jit_compile: bool, steps: int = 1, **options) -> list[float]:
    classifier, shape = make(name, **options)
    images, labels = batch(count=4, shape=shape, classes=5)
    model = kr.AdversarialTraining(classifier, ATTACK, clean_fraction=1.0)
    model.compile(keras.optimizers.SGD(1e-3), SPARSE, metrics=["accuracy"], jit_compile=jit_compile)
    return model.fit(images, labels, batch_size=4, epochs=steps, shuffle=False, verbose=0).history["loss"]


@pytest.mark.xla
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_first_loss_is_that_without_xla(batch, name):
    """Later ones depend on rounding: few pixels of few images are normalised in the last stages."""
    expected = losses(name, batch, jit_compile=False)
    np.testing.assert_allclose(losses(name, batch, jit_compile=True), expected, rtol=1e-3)


@pytest.mark.xla
def test_recomputed_losses_are_those_of_stored_activations(batch):
    expected = losses("revnet", batch, jit_compile=True, steps=2, recompute=False)
    np.testing.assert_allclose(losses("revnet", batch, jit_compile=True, steps=2), expected, rtol=1e-3)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_files_and_copies(batch, tmp_path, name):
    """A saved classifier, and one whose normalisation is exchanged for two branches that start alike, is the same."""
    classifier, shape = make(name)
    images, _ = batch(count=2, shape=shape)
    expected = classifier(images)
    classifier.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(images), expected, atol=1e-5)
    copy = kr.layers.replace_normalization(classifier, "mixture_batch")
    np.testing.assert_allclose(copy(images), expected, atol=1e-4)


@pytest.mark.multi_device
@pytest.mark.parametrize("name", ["revnet", "inception"])
def test_two_replicas(two_replicas, batch, name):
    """With mixture batch normalisation and, in Inception, dropout."""
    options = {"dropout": 0.2} if name == "inception" else {}
    with two_replicas.scope():
        classifier, shape = make(name, normalization="mixture_batch", **options)
        model = kr.AdversarialLogitPairing(classifier, ATTACK)
        model.compile(keras.optimizers.SGD(1e-3), SPARSE, metrics=["accuracy"])
        images, labels = batch(count=4, shape=shape, classes=5)
        history = model.fit(images, labels, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()

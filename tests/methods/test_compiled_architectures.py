"""Every method on every kind of network under XLA: the proof that they run on accelerators."""

import keras
import makers
import numpy as np
import pytest

import keras_robust as kr

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xla,
    # Methods without a clean pass do not train the clean branch of mixture batch normalisation.
    pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning"),
    # Methods on clean images alone train the branch that the classifier is not validated with, and say so.
    pytest.mark.filterwarnings("ignore:.* trains the clean branch:UserWarning"),
]
# From the start of TRADES, a thousandth away, the divergence is so small that float32's rounding decides its signs.
KL_FROM_ANYWHERE = kr.attacks.PGD(makers.BALL, steps=1, objective="kl_divergence", random_start="uniform")
METHODS = makers.METHODS | {
    # The loss of the first of its updates: that of later ones depends on signs of gradients that are nearly zero.
    "free": lambda classifier: kr.FreeAdversarialTraining(classifier, kr.attacks.FGSM(makers.BALL), replays=1),
    "trades": lambda classifier: kr.TRADES(classifier, KL_FROM_ANYWHERE),
    "weight perturbation": lambda classifier: kr.TRADES(
        classifier, KL_FROM_ANYWHERE, weight_perturbation=kr.AdversarialWeightPerturbation(gamma=0.1)
    ),
}
CLASSIFIERS = {
    "lenet": (lambda: kr.architectures.LeNet(), (28, 28, 1)),
    "resnet20": (lambda: kr.architectures.ResNet20(), (32, 32, 3)),
    "mixture batch norm": (lambda: kr.architectures.ResNet20(normalization="mixture_batch"), (32, 32, 3)),
    "group norm": (lambda: kr.architectures.ResNet20(normalization="group"), (32, 32, 3)),
}


def first_loss(make_method, method: str, classifier: str, batch, jit_compile: bool, steps: int = 1) -> float:
    make_classifier, shape = CLASSIFIERS[classifier]
    images, labels = batch(count=4 * steps, shape=shape, classes=10)
    keras.utils.set_random_seed(0)
    model = make_method(make_classifier())
    model.compile(keras.optimizers.SGD(0.01), makers.loss_for(method), metrics=["accuracy"], jit_compile=jit_compile)
    labels = makers.labels_for(method, labels, 10)
    data = (images, labels)
    options = {"validation_data": data} if method == "fast" else {}  # it wants to see whether it overfits
    return model.fit(*data, batch_size=4, shuffle=False, verbose=0, **options).history["loss"][0]


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("method", METHODS)
def test_the_first_loss_is_that_without_xla(batch, method, classifier):
    expected = first_loss(METHODS[method], method, classifier, batch, jit_compile=False)
    loss = first_loss(METHODS[method], method, classifier, batch, jit_compile=True)
    np.testing.assert_allclose(loss, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("method", ["free", "trades", "weight perturbation", "stale"])
def test_the_first_losses_are_those_without_xla_in_float64(batch, float64, method, classifier):
    """The methods as they are published, where the test above has to change them, and a stale batch trained on."""
    make_method = makers.METHODS[method]
    expected = first_loss(make_method, method, classifier, batch, jit_compile=False, steps=3)
    loss = first_loss(make_method, method, classifier, batch, jit_compile=True, steps=3)
    assert expected > 0
    np.testing.assert_allclose(loss, expected, atol=1e-4, rtol=0)

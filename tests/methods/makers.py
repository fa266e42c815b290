"""Every training method, for tests that hold for all of them."""

from collections.abc import Callable

import keras

import keras_robust as kr

BALL = kr.Linf(0.1)
ATTACK = kr.attacks.PGD(BALL, steps=2)
STEP = kr.attacks.PGD(BALL, steps=1)


def source_model(classifier: keras.Model) -> keras.Model:
    """A static model for images and classes of `classifier`."""
    dense = keras.layers.Dense(classifier.output_shape[-1], kernel_initializer=keras.initializers.GlorotUniform(9))
    return keras.Sequential([keras.Input(classifier.input_shape[1:]), keras.layers.Flatten(), dense])


def make_ensemble(classifier: keras.Model, **options) -> keras.Model:
    return kr.EnsembleAdversarialTraining(classifier, ATTACK, source_models=[source_model(classifier)], **options)


def make_fast(classifier: keras.Model, **options) -> keras.Model:
    return kr.FastAdversarialTraining(classifier, STEP, **{"validation_attack": ATTACK, **options})


def make_feature_pairing(classifier: keras.Model, **options) -> keras.Model:
    return kr.FeaturePairing(classifier, ATTACK, layers=[classifier.layers[0].name], **options)


def make_perturbed(classifier: keras.Model, **options) -> keras.Model:
    perturbation = kr.AdversarialWeightPerturbation(gamma=0.1)
    return kr.TRADES(classifier, KL_ATTACK, weight_perturbation=perturbation, **options)


def make_warm_up(classifier: keras.Model, **options) -> keras.Model:
    schedule = kr.optimizers.PiecewiseLinear([0, 4], [0.0, 1.0])
    return kr.AdversarialTraining(classifier, ATTACK, epsilon_schedule=schedule, **options)


KL_ATTACK = kr.attacks.PGD(BALL, steps=2, objective="kl_divergence", random_start="normal")

METHODS: dict[str, Callable[..., keras.Model]] = {
    "robust": lambda classifier, **options: kr.AdversarialTraining(classifier, ATTACK, **options),
    "mixture": lambda classifier, **options: kr.AdversarialTraining(
        classifier, ATTACK, clean_fraction=0.5, clean_weight=0.3, **options
    ),
    "pairing": lambda classifier, **options: kr.AdversarialLogitPairing(classifier, ATTACK, **options),
    "natural": lambda classifier, **options: kr.NaturalTraining(classifier, input_noise=0.1, **options),
    "clean pairing": lambda classifier, **options: kr.CleanLogitPairing(classifier, input_noise=0.1, **options),
    "squeezing": lambda classifier, **options: kr.LogitSqueezing(classifier, input_noise=0.1, **options),
    "mixup": kr.Mixup,
    "features": make_feature_pairing,
    "trades": lambda classifier, **options: kr.TRADES(classifier, KL_ATTACK, **options),
    "mart": lambda classifier, **options: kr.MART(classifier, ATTACK, **options),
    "virtual": lambda classifier, **options: kr.VirtualAdversarialTraining(
        classifier, kr.attacks.VirtualAdversarial(kr.L2(0.5)), direction="reverse", **options
    ),
    "free": lambda classifier, **options: kr.FreeAdversarialTraining(
        classifier, kr.attacks.FGSM(BALL), replays=3, **options
    ),
    "stale": lambda classifier, **options: kr.StaleAdversarialTraining(classifier, ATTACK, staleness=2, **options),
    "fast": make_fast,
    "ensemble": make_ensemble,
    "weight perturbation": make_perturbed,
    "warm-up": make_warm_up,
}


def loss_for(method: str) -> keras.losses.Loss:
    """The loss that a method can be compiled with: mixup needs one-hot labels."""
    if method == "mixup":
        return keras.losses.CategoricalCrossentropy(from_logits=True)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def labels_for(method: str, labels, classes: int = 3):
    """The labels that go with `loss_for`."""
    return keras.utils.to_categorical(labels, classes) if method == "mixup" else labels

"""One step of each method that changes the loss, against a numerical gradient of its formula."""

import keras
import numpy as np
import pytest
from softmax_regression import (
    CLASSES,
    CLEAN,
    COUNT,
    DENSE,
    EPSILON,
    IMAGES,
    LABELS,
    ONE_HOT,
    RATE,
    SIZE,
    SPARSE,
    STEP,
    WEIGHT,
    attacked,
    check,
    cross_entropies,
    divergences,
    log_softmax,
    logits,
    parameters,
    train,
)

import keras_robust as kr
from keras_robust.core import seeds
from keras_robust.methods.natural_training import beta_quantile

CROSS_ENTROPY_STEP = kr.attacks.FGSM(STEP.threat_model, objective="cross_entropy")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("over_classes", "divisor"), [("mean", CLASSES), ("sum", 1)])
@pytest.mark.parametrize("method", [kr.CleanLogitPairing, kr.LogitSqueezing])
def test_clean_logit_pairing_and_squeezing(linear_classifier, method, weighted, over_classes, divisor):
    """Cross-entropy plus 0.7 times the mean of ||z_i - z_{i + m/2}||^2, or of ||z_i||^2."""
    classifier = linear_classifier()
    p, weight = parameters(classifier), WEIGHT if weighted else np.ones(COUNT)

    def loss(p: np.ndarray) -> float:
        z = logits(p, CLEAN)
        if method is kr.LogitSqueezing:
            penalty = (weight * (z**2).sum(axis=1)).mean()
        else:
            penalty = ((weight[:5] + weight[5:]) / 2 * ((z[:5] - z[5:]) ** 2).sum(axis=1)).mean()
        return (weight * cross_entropies(p, CLEAN)).mean() + 0.7 * penalty / divisor

    pairing = kr.losses.PairingLoss("l2", over_classes=over_classes)
    names = (
        ("squeezing_weight", "squeezing_loss") if method is kr.LogitSqueezing else ("pairing_weight", "pairing_loss")
    )
    model = method(classifier, **dict(zip(names, (0.7, pairing), strict=True)))
    check(train(model, sample_weight=WEIGHT if weighted else None), loss, p)


def test_the_image_in_the_middle_of_an_odd_batch_has_two_partners(linear_classifier):
    """Of five: 0 and 2, 1 and 3, 2 and 4; the last pair weighs (w_2 + w_4) / 2."""
    classifier = linear_classifier()
    p, x, y, weight = parameters(classifier), CLEAN[:5], ONE_HOT[:5], WEIGHT[:5]

    def loss(p: np.ndarray) -> float:
        z = logits(p, x)
        pairs = [(weight[i] + weight[i + 2]) / 2 * ((z[i] - z[i + 2]) ** 2).mean() for i in range(3)]
        return (weight * cross_entropies(p, x, y)).mean() + 0.7 * np.mean(pairs)

    model = kr.CleanLogitPairing(classifier, pairing_weight=0.7)
    check(train(model, LABELS[:5], images=IMAGES[:5], sample_weight=weight), loss, p)


def test_one_image_has_no_pair(linear_classifier):
    """A batch of one is its own partner: the loss stays finite."""
    value, _ = train(kr.CleanLogitPairing(linear_classifier()), LABELS[:1], images=IMAGES[:1])
    np.testing.assert_allclose(value, cross_entropies(parameters(linear_classifier()), CLEAN[:1], ONE_HOT[:1])[0], 1e-5)


def test_input_noise_is_in_training_alone(linear_classifier):
    """The trained images are those plus 0.2 times the draw of step and seed; predictions have no noise."""
    classifier = linear_classifier()
    p, model = parameters(classifier), kr.NaturalTraining(classifier, input_noise=0.2, seed=5)
    seed = seeds.fold_replica(seeds.fold(seeds.as_seed(5), seeds.TRAINING, 0))
    noisy = CLEAN + 0.2 * seeds.normal(IMAGES.shape, seed).numpy().reshape(COUNT, SIZE)
    before = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(before, logits(p, CLEAN), rtol=1e-5)
    check(train(model), lambda p: cross_entropies(p, noisy).mean(), p)


def test_natural_training_is_keras(linear_classifier):
    plain = linear_classifier()
    plain.compile(keras.optimizers.SGD(RATE), SPARSE)
    plain.fit(IMAGES, LABELS, batch_size=4, shuffle=False, verbose=0)
    _, got = train(kr.NaturalTraining(linear_classifier()), batch_size=4)
    np.testing.assert_array_equal(got, parameters(plain))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("method", [kr.TRADES, kr.VirtualAdversarialTraining])
def test_divergence_methods(linear_classifier, method, direction, weighted):
    """Cross-entropy plus 2.5 KL; virtual adversarial training has no gradient through the clean prediction."""
    classifier = linear_classifier()
    p, weight = parameters(classifier), WEIGHT if weighted else np.ones(COUNT)
    adversarial = attacked(p)

    def loss(q: np.ndarray) -> float:
        clean = logits(q if method is kr.TRADES else p, CLEAN)
        pair = (clean, logits(q, adversarial)) if direction == "forward" else (logits(q, adversarial), clean)
        return (weight * cross_entropies(q, CLEAN)).mean() + 2.5 * (weight * divergences(*pair)).mean()

    with pytest.warns(UserWarning, match="maximises kl_divergence in the paper"):  # which would have to start elsewhere
        model = method(classifier, CROSS_ENTROPY_STEP, divergence_weight=2.5, direction=direction)
    check(train(model, sample_weight=WEIGHT if weighted else None), loss, p)


@pytest.mark.parametrize(
    ("form", "weighted"), [("sparse", False), ("sparse", True), ("one-hot", False), ("column", True)]
)
def test_mart(linear_classifier, form, weighted):
    """Weights have the form of the labels: (batch,), or (batch, 1) as a column."""
    labels = {"one-hot": ONE_HOT.astype(np.float32), "column": LABELS[:, None]}.get(form, LABELS)
    given = WEIGHT[:, None] if form == "column" else WEIGHT
    classifier = linear_classifier()
    p, weight = parameters(classifier), WEIGHT if weighted else np.ones(COUNT)
    adversarial = attacked(p)

    def loss(q: np.ndarray) -> float:
        clean, z = logits(q, CLEAN), logits(q, adversarial)
        others = np.where(ONE_HOT > 0, 0, np.exp(log_softmax(z))).max(axis=1)
        boosted = cross_entropies(q, adversarial) - np.log(1.0001 - others)
        doubt = 1 - (ONE_HOT * np.exp(log_softmax(clean))).sum(axis=1)
        return (weight * boosted).mean() + 3.0 * (weight * doubt * divergences(clean, z)).mean()

    model = kr.MART(classifier, STEP, divergence_weight=3.0)
    compiled = DENSE if form == "one-hot" else SPARSE
    check(train(model, labels, compiled, sample_weight=given if weighted else None), loss, p)


def test_weight_decay_is_part_of_every_loss(linear_classifier):
    """MART, whose loss is not the compiled one, adds the classifier's own losses as the others do."""

    def make(regularizer: str | None) -> keras.Model:
        dense = keras.layers.Dense(CLASSES, kernel_regularizer=regularizer, kernel_initializer="ones")
        return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), dense])

    for method, attack in ((kr.MART, STEP), (kr.TRADES, kr.attacks.PGD(kr.Linf(EPSILON), steps=1))):
        without, _ = train(method(make(None), attack))
        decayed, _ = train(method(make("l2"), attack))
        np.testing.assert_allclose(decayed - without, 0.01 * SIZE * CLASSES, rtol=1e-4)


def test_feature_pairing(linear_classifier):
    """Of the last layer it is logit pairing; of the flattened images it adds a constant."""
    classifier = linear_classifier()
    of_logits = train(kr.FeaturePairing(classifier, STEP, layers=[classifier.layers[1].name], pairing_weight=0.7))
    expected = train(kr.AdversarialLogitPairing(linear_classifier(), STEP, pairing_weight=0.7))
    np.testing.assert_allclose(of_logits[1], expected[1], atol=1e-6)
    classifier = linear_classifier()
    p = parameters(classifier)
    of_images = train(kr.FeaturePairing(classifier, STEP, layers=[classifier.layers[0].name], pairing_weight=0.7))
    mixed = train(kr.AdversarialTraining(linear_classifier(), STEP, clean_fraction=1.0))
    constant = 0.7 * ((CLEAN - attacked(p)) ** 2).mean()
    np.testing.assert_allclose(of_images[0], mixed[0] + constant, rtol=1e-5)
    np.testing.assert_allclose(of_images[1], mixed[1], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_beta_quantile(alpha):
    """The integral of the density up to the quantile is the probability."""
    probabilities = np.array([0.05, 0.3, 0.5, 0.8], np.float32)
    points = beta_quantile(probabilities, alpha).numpy()
    # In t with x = t^(1/alpha) the density has no pole at 0.
    for x, probability in zip(points, probabilities, strict=True):
        t = (np.linspace(0, x**alpha, 200_001)[1:] + np.linspace(0, x**alpha, 200_001)[:-1]) / 2
        below = ((1 - t ** (1 / alpha)) ** (alpha - 1)).mean() * x**alpha / alpha
        t = (np.linspace(0, 0.5**alpha, 200_001)[1:] + np.linspace(0, 0.5**alpha, 200_001)[:-1]) / 2
        half = ((1 - t ** (1 / alpha)) ** (alpha - 1)).mean() * 0.5**alpha / alpha
        np.testing.assert_allclose(below / (2 * half), probability, atol=2e-3)


def test_mixup(linear_classifier):
    """Images and labels mixed with the share and the partners of the first step."""
    classifier = linear_classifier()
    p = parameters(classifier)
    seed = seeds.fold_replica(seeds.fold(seeds.as_seed(8), seeds.MIXING, 0))
    share = float(beta_quantile(seeds.uniform((), seeds.fold(seed, 0)), 0.5))
    partners = np.argsort(seeds.uniform((COUNT,), seeds.fold(seed, 1)).numpy())
    assert 0.1 < share < 0.9
    mixed, targets = (share * v + (1 - share) * v[partners] for v in (CLEAN, ONE_HOT))
    result = train(kr.Mixup(classifier, alpha=0.5, seed=8), ONE_HOT.astype(np.float32), DENSE)
    check(result, lambda q: cross_entropies(q, mixed, targets).mean(), p)


def test_mixup_with_weights(linear_classifier):
    """Each of the two labels of a mixture counts with the weight of its own image; of two images without, none does."""
    classifier = linear_classifier()
    p = parameters(classifier)
    seed = seeds.fold_replica(seeds.fold(seeds.as_seed(8), seeds.MIXING, 0))
    share = float(beta_quantile(seeds.uniform((), seeds.fold(seed, 0)), 0.5))
    partners = np.argsort(seeds.uniform((COUNT,), seeds.fold(seed, 1)).numpy())
    weight = WEIGHT.copy()
    weight[[0, partners[0]]] = 0.0
    mixed = share * CLEAN + (1 - share) * CLEAN[partners]

    def loss(q: np.ndarray) -> float:
        of_own, of_partner = (cross_entropies(q, mixed, targets) for targets in (ONE_HOT, ONE_HOT[partners]))
        return (share * weight * of_own + (1 - share) * weight[partners] * of_partner).mean()

    model = kr.Mixup(classifier, alpha=0.5, seed=8)
    check(train(model, ONE_HOT.astype(np.float32), DENSE, sample_weight=weight), loss, p)


def test_mixup_needs_one_hot_labels(linear_classifier):
    with pytest.raises(ValueError, match=r"one-hot labels .* Received: labels of shape \(10,\)"):
        train(kr.Mixup(linear_classifier()))

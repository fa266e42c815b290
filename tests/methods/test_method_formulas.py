"""One step of each method on softmax regression with SGD, against a numerical gradient of its formula in float64."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.core import seeds
from keras_robust.methods.mixup import MIXING_DRAWS, beta_quantile
from keras_robust.methods.robust_model import TRAINING_DRAWS

RATE, EPSILON, COUNT, CLASSES, SIZE = 0.5, 0.1, 10, 3, 16
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(COUNT, 4, 4, 1)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, COUNT)
ONE_HOT = np.eye(CLASSES)[LABELS]
WEIGHT = RNG.uniform(0.2, 2.0, COUNT).astype(np.float32)
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
DENSE = keras.losses.CategoricalCrossentropy(from_logits=True)
STEP = kr.attacks.FGSM(kr.Linf(EPSILON))
CLEAN = IMAGES.reshape(COUNT, SIZE).astype(np.float64)


def parameters(classifier: keras.Model) -> np.ndarray:
    return np.concatenate([np.asarray(v, np.float64).ravel() for v in classifier.get_weights()])


def logits(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    return x @ p[: SIZE * CLASSES].reshape(SIZE, CLASSES) + p[SIZE * CLASSES :]


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def cross_entropies(p: np.ndarray, x: np.ndarray, targets: np.ndarray = ONE_HOT) -> np.ndarray:
    return -(targets * log_softmax(logits(p, x))).sum(axis=1)


def divergences(reference: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (np.exp(log_softmax(reference)) * (log_softmax(reference) - log_softmax(z))).sum(axis=1)


def image_gradient(p: np.ndarray, x: np.ndarray, targets: np.ndarray = ONE_HOT) -> np.ndarray:
    """Of the cross-entropies, (count, size)."""
    return (np.exp(log_softmax(logits(p, x))) - targets) @ p[: SIZE * CLASSES].reshape(SIZE, CLASSES).T


def attacked(p: np.ndarray, x: np.ndarray = CLEAN, targets: np.ndarray = ONE_HOT, epsilon: float = EPSILON):
    return np.clip(x + epsilon * np.sign(image_gradient(p, x, targets)), 0, 1)


def gradient(loss, p: np.ndarray, width: float = 1e-6) -> np.ndarray:
    """Central differences."""
    steps = width * np.eye(len(p))
    return np.array([(loss(p + step) - loss(p - step)) / (2 * width) for step in steps])


def train(model: keras.Model, labels=LABELS, loss=SPARSE, images=IMAGES, batch_size=COUNT, epochs=1, **options):
    """Returns the logged loss of the last epoch and the weights."""
    model.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
    options = {"batch_size": batch_size, "epochs": epochs, "shuffle": False, "verbose": 0, **options}
    return model.fit(images, labels, **options).history["loss"][-1], parameters(model.classifier)


def check(result, loss, p: np.ndarray) -> None:
    np.testing.assert_allclose(result[0], loss(p), rtol=1e-5)
    np.testing.assert_allclose(result[1], p - RATE * gradient(loss, p), atol=3e-6)


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


def test_one_image_has_no_pair(linear_classifier):
    """A batch of one is its own partner: the loss stays finite."""
    value, _ = train(kr.CleanLogitPairing(linear_classifier()), LABELS[:1], images=IMAGES[:1])
    np.testing.assert_allclose(value, cross_entropies(parameters(linear_classifier()), CLEAN[:1], ONE_HOT[:1])[0], 1e-5)


def test_input_noise_is_in_training_alone(linear_classifier):
    """The trained images are those plus 0.2 times the draw of step and seed; predictions have no noise."""
    classifier = linear_classifier()
    p, model = parameters(classifier), kr.NaturalTraining(classifier, input_noise=0.2, seed=5)
    seed = seeds.fold_replica(seeds.fold(seeds.as_seed(5), TRAINING_DRAWS, 0))
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

    model = method(classifier, STEP, divergence_weight=2.5, direction=direction)
    check(train(model, sample_weight=WEIGHT if weighted else None), loss, p)


@pytest.mark.parametrize("weighted", [False, True])
def test_mart(linear_classifier, weighted):
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
    check(train(model, sample_weight=WEIGHT if weighted else None), loss, p)


def test_weight_decay_is_part_of_every_loss(linear_classifier):
    """MART, whose loss is not the compiled one, adds the classifier's own losses as the others do."""

    def make(regularizer: str | None) -> keras.Model:
        dense = keras.layers.Dense(CLASSES, kernel_regularizer=regularizer, kernel_initializer="ones")
        return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), dense])

    for method in (kr.MART, kr.TRADES):
        without, _ = train(method(make(None), STEP))
        decayed, _ = train(method(make("l2"), STEP))
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
    seed = seeds.fold_replica(seeds.fold(seeds.as_seed(4), MIXING_DRAWS, 0))
    share = float(beta_quantile(seeds.uniform((), seeds.fold(seed, 0)), 0.5))
    partners = np.argsort(seeds.uniform((COUNT,), seeds.fold(seed, 1)).numpy())
    assert 0.1 < share < 0.9
    mixed, targets = (share * v + (1 - share) * v[partners] for v in (CLEAN, ONE_HOT))
    result = train(kr.Mixup(classifier, alpha=0.5, seed=4), ONE_HOT.astype(np.float32), DENSE)
    check(result, lambda q: cross_entropies(q, mixed, targets).mean(), p)


def test_mixup_needs_one_hot_labels(linear_classifier):
    with pytest.raises(ValueError, match=r"one-hot labels .* Received: labels of shape \(10,\)"):
        train(kr.Mixup(linear_classifier()))


def test_adversarial_weight_perturbation(linear_classifier):
    """The update is the gradient at w + gamma ||w|| / ||g|| g, of the kernel alone; the logged loss is there, too."""
    classifier = linear_classifier()
    p = parameters(classifier)
    adversarial = attacked(p)

    def loss(q: np.ndarray) -> float:
        return cross_entropies(q, adversarial).mean()

    kernel = np.arange(len(p)) < SIZE * CLASSES
    g = gradient(loss, p)
    v = np.where(kernel, 0.1 * np.linalg.norm(p[kernel]) / np.linalg.norm(g[kernel]) * g, 0)
    perturbation = kr.AdversarialWeightPerturbation(gamma=0.1)
    got, after = train(kr.AdversarialTraining(classifier, STEP, weight_perturbation=perturbation))
    np.testing.assert_allclose(got, loss(p + v), rtol=1e-5)
    np.testing.assert_allclose(after, p - RATE * gradient(loss, p + v), atol=3e-6)


def test_weight_perturbation_begins_after_its_steps(linear_classifier):
    late = kr.AdversarialWeightPerturbation(gamma=0.5, after_steps=2)
    results = [
        train(kr.AdversarialTraining(linear_classifier(), STEP, weight_perturbation=w), batch_size=5, epochs=epochs)[1]
        for w, epochs in ((late, 1), (None, 1), (late, 2), (None, 2))
    ]
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)
    assert np.abs(results[2] - results[3]).max() > 1e-3


@pytest.mark.parametrize("replays", [1, 3])
def test_free_adversarial_training(linear_classifier, replays):
    """Two batches: the perturbation starts at zero, grows with every replay and goes on with the second batch."""
    classifier = linear_classifier()
    p, delta = parameters(classifier), np.zeros((5, SIZE))
    losses = []
    for rows in (slice(0, 5), slice(5, 10)):
        for _ in range(replays):
            x = np.clip(CLEAN[rows] + delta, 0, 1)

            def loss(q: np.ndarray, x: np.ndarray = x, rows: slice = rows) -> float:
                return cross_entropies(q, x, ONE_HOT[rows]).mean()

            losses.append(loss(p))
            ascent = EPSILON * np.sign(image_gradient(p, x, ONE_HOT[rows]))
            p = p - RATE * gradient(loss, p)
            delta = np.clip(delta + ascent, -EPSILON, EPSILON)
    model = kr.FreeAdversarialTraining(classifier, STEP, replays=replays)
    got, after = train(model, batch_size=5)
    np.testing.assert_allclose(got, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(after, p, atol=1e-5)
    assert int(model.optimizer.iterations) == 2 * replays
    assert int(model.steps_taken) == 2


def test_free_training_with_epsilon_0_is_replay(linear_classifier):
    """Natural training on a data set in which every batch comes three times (figure 1 of the paper)."""
    plain = linear_classifier()
    plain.compile(keras.optimizers.SGD(RATE), SPARSE)
    rows = np.concatenate([np.tile(np.arange(5), 3), np.tile(np.arange(5, 10), 3)])
    plain.fit(IMAGES[rows], LABELS[rows], batch_size=5, shuffle=False, verbose=0)
    still = kr.attacks.FGSM(kr.Linf(0.0))
    _, got = train(kr.FreeAdversarialTraining(linear_classifier(), still, replays=3), batch_size=5)
    np.testing.assert_allclose(got, parameters(plain), atol=1e-6)


def test_free_training_takes_a_smaller_last_batch(linear_classifier):
    model = kr.FreeAdversarialTraining(linear_classifier(), STEP, replays=2)
    value, _ = train(model, batch_size=4)
    assert np.isfinite(value)
    perturbation = model.replica_state["perturbation"].to_array()
    assert perturbation.shape == (1, 4, 4, 4, 1)
    assert np.abs(perturbation).max() <= EPSILON


def test_stale_adversarial_training(linear_classifier):
    """Staleness 2, four batches: two fill the queue, the others train on them as attacked with the first weights."""
    classifier = linear_classifier()
    start = p = parameters(classifier)
    losses = []
    for rows in (slice(0, 5), slice(5, 10)):
        x = attacked(start, CLEAN[rows], ONE_HOT[rows])

        def loss(q: np.ndarray, x: np.ndarray = x, rows: slice = rows) -> float:
            return cross_entropies(q, x, ONE_HOT[rows]).mean()

        losses.append(loss(p))
        p = p - RATE * gradient(loss, p)
    model = kr.StaleAdversarialTraining(classifier, STEP, staleness=2)
    value, after = train(model, batch_size=5, epochs=1)
    assert value == 0
    np.testing.assert_allclose(after, start, atol=1e-7)
    value, after = train(model, batch_size=5, epochs=1)
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(after, p, atol=3e-6)


def test_stale_training_needs_batches_of_one_size(linear_classifier):
    model = kr.StaleAdversarialTraining(linear_classifier(), STEP, staleness=2)
    with pytest.raises(ValueError, match="Received: 10 images in batches of 4"):
        train(model, batch_size=4)


def test_staleness_0_is_adversarial_training(linear_classifier):
    attack = kr.attacks.PGD(kr.Linf(EPSILON), steps=2)
    _, stale = train(kr.StaleAdversarialTraining(linear_classifier(), attack, staleness=0), batch_size=5)
    _, fresh = train(kr.RobustModel(linear_classifier(), attack), batch_size=5)
    np.testing.assert_array_equal(stale, fresh)


def test_fast_training_is_adversarial_training_of_one_step(linear_classifier):
    attack, strong = kr.attacks.PGD(kr.Linf(EPSILON), steps=1, step_size=0.125), kr.attacks.PGD(kr.Linf(EPSILON))
    model = kr.FastAdversarialTraining(linear_classifier(), attack, validation_attack=strong)
    _, fast = train(model, validation_data=(IMAGES, LABELS))
    np.testing.assert_allclose(fast, train(kr.RobustModel(linear_classifier(), attack))[1], atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_ensemble_attacks_the_model_that_was_drawn(linear_classifier, seed):
    """The classifier itself, or one of two static models, by the draw of the step."""
    classifier, others = linear_classifier(), [linear_classifier(seed=1), linear_classifier(seed=2)]
    p = parameters(classifier)
    draw = seeds.fold_replica(seeds.fold(seeds.as_seed(seed), TRAINING_DRAWS, 0))
    index = int(seeds.integers((), seeds.fold(draw, 0), 3))
    x = attacked(parameters([classifier, *others][index]))
    model = kr.EnsembleAdversarialTraining(classifier, STEP, source_models=others, clean_fraction=0.0, seed=seed)
    check(train(model), lambda q: cross_entropies(q, x).mean(), p)


def test_the_draws_of_the_ensemble_differ():
    """The seeds of the test above draw more than one of the models."""
    draws = [seeds.fold(seeds.fold_replica(seeds.fold(seeds.as_seed(s), TRAINING_DRAWS, 0)), 0) for s in range(4)]
    assert len({int(seeds.integers((), draw, 3)) for draw in draws}) > 1


@pytest.mark.parametrize("taken", [0, 2, 4, 9])
def test_epsilon_schedule(linear_classifier, taken):
    """After `taken` of 4 steps of warm-up the attack has that fraction of epsilon and step."""
    classifier = linear_classifier()
    p, x = parameters(classifier), attacked(parameters(classifier), epsilon=EPSILON * min(taken / 4, 1))
    schedule = kr.optimizers.PiecewiseLinear([0, 4], [0.0, 1.0])
    model = kr.RobustModel(classifier, STEP, epsilon_schedule=schedule)
    model.steps_taken.assign(taken)
    check(train(model), lambda q: cross_entropies(q, x).mean(), p)


def test_an_epsilon_schedule_needs_an_attack(linear_classifier):
    schedule = kr.optimizers.PiecewiseLinear([0, 4], [0.0, 1.0])
    with pytest.raises(ValueError, match="without an attack"):
        kr.NaturalTraining(linear_classifier(), epsilon_schedule=schedule)

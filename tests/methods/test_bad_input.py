"""What constructors, `compile` and `fit` refuse: a `ValueError` that says what was received, and nothing changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

PGD, FGSM, Linf = kr.attacks.PGD, kr.attacks.FGSM, kr.Linf
BALL = Linf(0.1)
ATTACK = FGSM(BALL)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(6, 4, 4, 1)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
DENSE = keras.losses.CategoricalCrossentropy(from_logits=True)


def classifier(activation: str | None = None) -> keras.Model:
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, activation=activation)]
    return keras.Sequential(layers)


class HiddenSoftmax(keras.Model):
    """A classifier that cannot be looked into: only its output shows that it ends in a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(3)
        self.flatten = keras.layers.Flatten()

    def call(self, images):
        return keras.ops.softmax(self.dense(self.flatten(images)))


class OneLogit(keras.Model):
    """A classifier of shape (batch, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(1)

    def call(self, images):
        return self.dense(self.flatten(images))


CONSTRUCTORS = {
    "softmax activation": (lambda: kr.AdversarialTraining(classifier("softmax"), ATTACK), "softmax"),
    "softmax layer": (
        lambda: kr.AdversarialTraining(keras.Sequential([classifier(), keras.layers.Softmax()]), ATTACK),
        "softmax",
    ),
    "sigmoid": (lambda: kr.AdversarialTraining(classifier("sigmoid"), ATTACK), "sigmoid"),
    "no model": (lambda: kr.AdversarialTraining(lambda x: x, ATTACK), "function"),
    "a path": (lambda: kr.AdversarialTraining("model.keras", ATTACK), "str"),
    "attack by name": (lambda: kr.AdversarialTraining(classifier(), "pgd"), "attack='pgd'"),
    "no attack": (lambda: kr.AdversarialTraining(classifier(), None), "attack=None"),
    "attack is a threat model": (lambda: kr.AdversarialTraining(classifier(), BALL), "attack=Linf("),
    "validation attack": (
        lambda: kr.AdversarialTraining(classifier(), ATTACK, validation_attack="pgd"),
        "validation_attack='pgd'",
    ),
    "validation attack class": (lambda: kr.AdversarialTraining(classifier(), ATTACK, validation_attack=PGD), "PGD"),
    "validation attack of another pixel range": (
        lambda: kr.AdversarialTraining(classifier(), ATTACK, validation_attack=FGSM(Linf(8, (0, 255)))),
        "bounds=(0.0, 255.0) of validation_attack",
    ),
    "negative seed": (lambda: kr.AdversarialTraining(classifier(), ATTACK, seed=-1), "seed=-1"),
    "seed of the wrong type": (lambda: kr.AdversarialTraining(classifier(), ATTACK, seed=1.5), "seed=1.5"),
    "clean_fraction": (
        lambda: kr.AdversarialTraining(classifier(), ATTACK, clean_fraction=1.2),
        "clean_fraction=1.2",
    ),
    "clean_fraction in percent": (
        lambda: kr.AdversarialTraining(classifier(), ATTACK, clean_fraction=50),
        "clean_fraction=50",
    ),
    "clean_weight": (lambda: kr.AdversarialTraining(classifier(), ATTACK, clean_weight=1.0), "clean_weight=1.0"),
    "negative clean_weight": (
        lambda: kr.AdversarialTraining(classifier(), ATTACK, clean_weight=-0.5),
        "clean_weight=-0.5",
    ),
    "pairing_weight": (
        lambda: kr.AdversarialLogitPairing(classifier(), ATTACK, pairing_weight=-1),
        "pairing_weight=-1",
    ),
    "pairing_weight NaN": (
        lambda: kr.AdversarialLogitPairing(classifier(), ATTACK, pairing_weight=float("nan")),
        "pairing_weight=nan",
    ),
    "pairing_loss": (
        lambda: kr.AdversarialLogitPairing(classifier(), ATTACK, pairing_loss="cosine"),
        "'cosine'",
    ),
    "steps": (lambda: PGD(BALL, steps=0), "steps=0"),
    "epsilon": (lambda: PGD(Linf(-1)), "epsilon=-1"),
    "epsilon of 255": (lambda: PGD(Linf(8)), "epsilon=8"),
    "objective": (lambda: PGD(BALL, objective="accuracy"), "objective='accuracy'"),
    "objective is an attack": (lambda: PGD(BALL, objective=PGD(BALL)), "objective=PGD("),
    "target": (lambda: PGD(BALL, target="easiest"), "target='easiest'"),
    "random_start": (lambda: PGD(BALL, random_start="gaussian"), "random_start='gaussian'"),
}


@pytest.mark.parametrize("case", CONSTRUCTORS)
def test_constructors(case):
    make, received = CONSTRUCTORS[case]
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert received in str(error.value).partition("Received: ")[2]


COMPILE = {
    "string loss": ({"loss": "sparse_categorical_crossentropy"}, "loss='sparse_categorical_crossentropy'"),
    "class name": ({"loss": "CategoricalCrossentropy"}, "loss='CategoricalCrossentropy'"),
    "focal loss by name": ({"loss": "categorical_focal_crossentropy"}, "loss='categorical_focal_crossentropy'"),
    "loss on probabilities": (
        {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=False)},
        "from_logits=False",
    ),
    "loss function": ({"loss": keras.losses.sparse_categorical_crossentropy}, "from_logits=False"),
    "list of losses": ({"loss": [keras.losses.CategoricalCrossentropy()]}, "from_logits=False"),
    "no loss": ({"loss": None}, "loss=None"),
    "metrics by output": ({"loss": SPARSE, "metrics": {"logits": "accuracy"}}, "metrics={'logits': 'accuracy'}"),
    "one metric": ({"loss": SPARSE, "metrics": "accuracy"}, "metrics='accuracy'"),
    "metric by name": (
        {"loss": SPARSE, "metrics": ["sparse_categorical_crossentropy"]},
        "'sparse_categorical_crossentropy' with from_logits=False",
    ),
    "metric on probabilities": (
        {"loss": SPARSE, "weighted_metrics": [keras.metrics.CategoricalCrossentropy()]},
        "CategoricalCrossentropy name=categorical_crossentropy",
    ),
    "metric function": ({"loss": SPARSE, "metrics": [keras.losses.categorical_crossentropy]}, "from_logits=False"),
    "one weighted metric": ({"loss": SPARSE, "weighted_metrics": "accuracy"}, "weighted_metrics='accuracy'"),
}


@pytest.mark.parametrize("case", COMPILE)
def test_compile(case):
    options, received = COMPILE[case]
    with pytest.raises(ValueError, match="Received: ") as error:
        kr.AdversarialTraining(classifier(), ATTACK).compile("sgd", **options)
    assert received in str(error.value).partition("Received: ")[2]


NAN = IMAGES.copy()
NAN[2, 1, 1, 0] = np.nan
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
FIT = {
    "uint8": ((IMAGES * 255).astype(np.uint8), LABELS, SPARSE, "dtype uint8"),
    "integers": (np.ones((6, 4, 4, 1), np.int64), LABELS, SPARSE, "dtype int64"),
    "255": (IMAGES * 255, LABELS, SPARSE, "images from "),
    "normalised": (IMAGES - 0.5, LABELS, SPARSE, "images from -0."),
    "NaN": (NAN, LABELS, SPARSE, "nan"),
    "infinite": (np.where(np.isnan(NAN), np.inf, NAN), LABELS, SPARSE, "inf"),
    "no images": (None, LABELS, SPARSE, "shape ()"),
    "dictionary of TFDS": ({"image": IMAGES, "label": LABELS}, None, SPARSE, "a dict with the keys ['image', 'label']"),
    "no image at all": (IMAGES[:0], LABELS[:0], SPARSE, "shape (0, 4, 4, 1)"),
    "names as labels": (IMAGES, np.array(list("abcabc")), SPARSE, "labels of dtype <U1"),
    "dict of images": ({"image": IMAGES}, LABELS, SPARSE, "a dict"),
    "list of images": ([IMAGES, IMAGES], LABELS, SPARSE, "a list"),
    "too large a label": (IMAGES, LABELS + 1, SPARSE, "labels from 1 to 3"),
    "negative label": (IMAGES, LABELS - 1, SPARSE, "labels from -1 to 1"),
    "fractional label": (IMAGES, LABELS + 0.5, SPARSE, "labels from 0.5 to 2.5"),
    "rank of labels": (IMAGES, ONE_HOT[:, :, None], DENSE, "shape (6, 3, 1)"),
    "classes of labels": (IMAGES, np.eye(4, dtype=np.float32)[LABELS], DENSE, "shape (6, 4)"),
    "rows that do not add up to 1": (IMAGES, 2 * ONE_HOT, DENSE, "row sums from 2.0 to 2.0"),
    "length of labels": (IMAGES, LABELS[:4], SPARSE, "4 labels for 6 images"),
    "no labels": (IMAGES, None, SPARSE, "no labels"),
    "wrong image shape": (IMAGES[:, :3], LABELS, SPARSE, "(3, 4, 1)"),
    "no channels": (IMAGES[..., 0], LABELS, SPARSE, "(4, 4)"),
}


def failing_fit(model: keras.Model, images, labels) -> str:
    """Returns what the error says was received; nothing of the model may have changed."""
    before = [np.array(w) for w in model.get_weights()]
    with pytest.raises(ValueError, match="Received: ") as error:
        model.fit(images, labels, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=False):
        np.testing.assert_array_equal(old, new)
    assert int(model.steps_taken) == 0
    return str(error.value).partition("Received: ")[2]


@pytest.mark.parametrize("case", FIT)
def test_fit(case):
    images, labels, loss, received = FIT[case]
    model = kr.AdversarialLogitPairing(classifier(), ATTACK)
    model.compile("sgd", loss, metrics=["accuracy"])
    assert received in failing_fit(model, images, labels)


def test_fit_before_compile():
    assert "never compiled" in failing_fit(kr.AdversarialTraining(classifier(), ATTACK), IMAGES, LABELS)


@pytest.mark.parametrize(
    ("hidden", "received"), [(HiddenSoftmax, "add up to 1"), (OneLogit, "shape (6, 1)")], ids=["softmax", "one logit"]
)
def test_fit_looks_at_outputs(hidden, received):
    model = kr.AdversarialTraining(hidden(), ATTACK)
    model.compile("sgd", SPARSE)
    assert received in failing_fit(model, IMAGES, LABELS)


@pytest.mark.parametrize("kind", ["arrays", "data set"])
def test_fit_looks_at_validation_data(kind):
    """And takes nothing from a generator."""
    model = kr.AdversarialTraining(classifier(), ATTACK)
    model.compile("sgd", SPARSE)
    data = (IMAGES * 255, LABELS)
    if kind == "data set":
        data = tf.data.Dataset.from_tensor_slices(data).batch(3)
    with pytest.raises(ValueError, match="Received: images from "):
        model.fit(IMAGES, LABELS, validation_data=data, verbose=0)
    assert int(model.steps_taken) == 0
    batches = iter([(IMAGES, LABELS)])
    options = {"validation_data": (batch for batch in batches), "validation_steps": 1, "verbose": 0}
    assert "val_loss" in model.fit(IMAGES, LABELS, **options).history


def test_bounds_are_those_of_the_threat_model():
    """Images in [0, 255] are right where the threat model says so, and others are then too."""
    model = kr.AdversarialTraining(classifier(), FGSM(Linf(8, (0, 255))))
    model.compile("sgd", SPARSE)
    assert model.bounds == (0.0, 255.0)
    model.fit(IMAGES * 255, LABELS, verbose=0)
    model = kr.AdversarialTraining(classifier(), FGSM(Linf(8, (0, 255))))
    model.compile("sgd", SPARSE)
    assert "300" in failing_fit(model, IMAGES * 0 + 300, LABELS)


@pytest.mark.parametrize("make", [kr.NaturalTraining, kr.CleanLogitPairing, kr.LogitSqueezing, kr.Mixup])
def test_bounds_of_methods_without_an_attack(make, tmp_path):
    """Pixels in [0, 255] without an attack to say so; saved, and with a validation attack of the same range."""
    loss, labels = (DENSE, ONE_HOT) if make is kr.Mixup else (SPARSE, LABELS)
    attack = FGSM(Linf(8, (0, 255)))
    for model in (make(classifier(), bounds=(0, 255)), make(classifier(), bounds=[0, 255], validation_attack=attack)):
        model.compile("sgd", loss)
        assert model.bounds == (0.0, 255.0)
        model.fit(IMAGES * 255, labels, verbose=0)
        assert "300" in failing_fit(make_anew(model, loss), IMAGES * 0 + 300, labels)
        model.save(tmp_path / "model.keras")
        assert keras.models.load_model(tmp_path / "model.keras").bounds == (0.0, 255.0)
    assert make(classifier()).bounds == (0.0, 1.0)
    assert make(classifier(), validation_attack=attack).bounds == (0.0, 255.0)
    with pytest.raises(
        ValueError, match=r"Received: bounds=\(0, 1\), and bounds=\(0\.0, 255\.0\) of validation_attack"
    ):
        make(classifier(), bounds=(0, 1), validation_attack=attack)
    for bounds in ((1, 0), (0, 1, 2), 255, "01"):
        with pytest.raises(ValueError, match=r"Received: bounds="):
            make(classifier(), bounds=bounds)


def make_anew(model: keras.Model, loss) -> keras.Model:
    fresh = type(model).from_config(model.get_config())
    fresh.compile("sgd", loss)
    return fresh


def test_configs_of_before_have_no_bounds():
    config = kr.NaturalTraining(classifier()).get_config()
    del config["bounds"]
    assert kr.NaturalTraining.from_config(config).bounds == (0.0, 1.0)


def test_mart_has_no_label_smoothing(linear_classifier):
    model = kr.MART(linear_classifier(), kr.attacks.FGSM(kr.Linf(0.1)))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing': 0\.1"):
        model.compile("sgd", loss)

"""What is evaluated: SavedModels of others, models that were never built, outputs that are no logits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

pytestmark = pytest.mark.graph

RANDOM = np.random.default_rng(0)
IMAGES, LABELS = RANDOM.uniform(size=(8, 4, 4, 1)).astype(np.float32), np.arange(8) % 3
KERNEL = RANDOM.normal(size=(16, 3)).astype(np.float32)
ATTACK = kr.attacks.FGSM(kr.Linf(0.1))


class Module(tf.Module):
    """A SavedModel that this toolkit did not write."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(KERNEL)

    def __call__(self, images, training=False):
        logits = tf.reshape(images, (-1, 16)) @ self.kernel
        return logits - tf.reduce_mean(logits, axis=0) if training else logits


def save(folder, function, *specs, name="serving_default"):
    """Saves a function as a signature, or no signature where there is no spec."""
    module = Module()
    module.function = tf.function(lambda *inputs: function(module, *inputs), input_signature=specs or None)
    tf.saved_model.save(module, str(folder), signatures={name: module.function} if specs else None)
    return folder


def spec(*shape, dtype=tf.float32, name="images"):
    return tf.TensorSpec(shape, dtype, name)


def evaluate(model, images=IMAGES, labels=LABELS, **options):
    return kr.evaluate(model, (images, labels), ATTACK, verbose=False, **options)


EVERY = (None, 4, 4, 1)
REFUSED = {
    "no signature": (lambda m, x: m(x), [], r"signatures \[\]"),
    "another name": (lambda m, x: m(x), [spec(*EVERY)], r"signatures \['predict'\]"),
    "two inputs": (
        lambda m, x, y: m(x) + m(y),
        [spec(*EVERY), spec(*EVERY, name="more")],
        r"inputs \[.*more \(None, 4, 4, 1\) float32.*outputs \[",
    ),
    "two outputs": (lambda m, x: {"a": m(x), "b": m(x)}, [spec(*EVERY)], r"outputs \[a .*, b .*\]"),
    "bytes": (
        lambda m, x: m(tf.cast(x, tf.float32)),
        [spec(*EVERY, dtype=tf.uint8)],
        r"inputs \[images \(None, 4, 4, 1\) uint8\]",
    ),
    "a fixed batch": (lambda m, x: m(x), [spec(2, 4, 4, 1)], r"batch dimension of None.*\(2, 4, 4, 1\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_saved_model_that_cannot_be_called_says_what_it_has(tmp_path, case):
    function, specs, received = REFUSED[case]
    save(tmp_path / "saved", function, *specs, name="predict" if case == "another name" else "serving_default")
    with pytest.raises(ValueError, match=f"Received: .*{received}|{received}"):
        evaluate(tmp_path / "saved")


@pytest.mark.parametrize("given", [spec(*EVERY), spec(*EVERY, dtype=tf.float64), spec(*EVERY, dtype=tf.float16)])
def test_a_foreign_saved_model_is_evaluated(tmp_path, given):
    save(tmp_path / "saved", lambda m, x: m(tf.cast(x, tf.float32)), given)
    expected = evaluate(lambda images: tf.reshape(images, (-1, 16)) @ KERNEL)
    assert evaluate(tmp_path / "saved").attacks == expected.attacks


class Subclassed(keras.Model):
    """A user's own model."""

    def __init__(self, output=lambda logits: logits) -> None:
        super().__init__()
        self.flatten, self.dense, self.output_of = keras.layers.Flatten(), keras.layers.Dense(3), output

    def call(self, images):
        return self.output_of(self.dense(self.flatten(images)))


def built(model):
    model(IMAGES)
    return model


def two_outputs():
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, [keras.layers.Dense(3)(flat), keras.layers.Dense(5)(flat)])


def two_inputs():
    inputs = [keras.Input((4, 4, 1)), keras.Input((4, 4, 1))]
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs[0] + inputs[1])))


def dictionary():
    inputs = keras.Input((4, 4, 1))
    return keras.Model(inputs, {"logits": keras.layers.Dense(3)(keras.layers.Flatten()(inputs))})


MODELS = {
    "never built": (Subclassed, "the unbuilt Subclassed"),
    "sequential, never built": (lambda: keras.Sequential([keras.layers.Flatten()]), "the unbuilt Sequential"),
    "two outputs": (two_outputs, "2 outputs of shapes (None, 3), (None, 5)"),
    "two inputs": (two_inputs, "2 inputs of shapes"),
    "a dictionary": (dictionary, "a dict of the keys ['logits']"),
    "a list, subclassed": (lambda: built(Subclassed(lambda x: [x, x])), "a list of 2 outputs"),
    "a dictionary, function": (lambda: lambda x: {"logits": tf.reshape(x, (-1, 16))[:, :3]}, "a dict of the keys"),
    "a tuple, function": (lambda: lambda x: (tf.reshape(x, (-1, 16))[:, :3],) * 2, "a tuple of 2 outputs"),
    "feature maps": (lambda: lambda x: x, "an output of shape (8, 4, 4, 1)"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_is_no_classifier_is_named(case):
    make, received = MODELS[case]
    with pytest.raises(ValueError, match="Received: ") as error:
        evaluate(make(), batch_size=8)
    assert received in str(error.value).partition("Received: ")[2]


@pytest.mark.parametrize("case", ["two outputs", "two inputs", "a dictionary", "a list, subclassed"])
def test_nor_is_it_trained(case):
    make, received = MODELS[case]

    def train():
        model = kr.AdversarialTraining(make(), ATTACK)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(IMAGES, LABELS, verbose=0)

    with pytest.raises(ValueError, match="Received: ") as error:
        train()
    assert received in str(error.value).partition("Received: ")[2]


def test_a_subclassed_model_is_evaluated_once_it_is_built():
    model = built(Subclassed())
    report = evaluate(model)
    assert report.record["model"]["parameters"] == 51
    assert report.record["model"]["sha256"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_floats_of_any_precision_are_evaluated_in_float32(linear_classifier, dtype):
    model, images = linear_classifier(), IMAGES.astype(np.float16)  # these numbers are exact in all three
    expected = evaluate(model, images.astype(np.float32))
    found = evaluate(model, images.astype(dtype))
    assert found.attacks == expected.attacks
    np.testing.assert_array_equal(found.samples["attacked"], expected.samples["attacked"])


BATCH_NORM = "The logits of an image depend on the other images in its batch: they changed by"


@pytest.mark.parametrize("kind", ["function", "SavedModel", "Keras model"])
def test_batch_statistics_are_warned_of_and_recorded(tmp_path, conv_classifier, batch, kind):
    images, labels = batch(20)
    classifier = conv_classifier(batch_norm=True)
    model = {"function": lambda x: classifier(x, training=True), "Keras model": InTraining(classifier)}.get(kind)
    if kind == "SavedModel":
        images, model = images[:, :4, :4], tmp_path / "saved"
        save(model, lambda m, x: m(x, training=True), spec(*EVERY))
    with pytest.warns(UserWarning, match=BATCH_NORM):
        report = evaluate(model, images, labels, batch_size=8)
    (note,) = report.record["notes"]
    assert note.startswith(BATCH_NORM)
    assert f"Note: {note}" in str(report)
    report.save(tmp_path / "report")
    for name in ("report.md", "index.html"):
        assert BATCH_NORM in (tmp_path / "report" / name).read_text()


class InTraining(keras.Model):
    """A model that runs another in training mode, whatever it is asked for."""

    def __init__(self, classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.built = True

    def call(self, images):
        return self.classifier(images, training=True)


def test_one_image_has_neighbours_too():
    """What pads its batch are copies of it: it is compared beside others."""
    with pytest.warns(UserWarning, match=BATCH_NORM):
        evaluate(lambda x: tf.reshape(x, (-1, 16)) @ KERNEL - tf.reduce_mean(x), IMAGES[:1], LABELS[:1], batch_size=8)


ALONE = {
    "its own statistics": lambda x: tf.reshape(x - tf.reduce_mean(x, (1, 2, 3), keepdims=True), (-1, 16)) @ KERNEL,
    "noise": lambda x: tf.reshape(x, (-1, 16)) @ KERNEL + tf.random.normal((tf.shape(x)[0], 3)),
    "not finite": lambda x: tf.reshape(x, (-1, 16)) @ (KERNEL * np.inf),
}


@pytest.mark.parametrize("case", ALONE)
@pytest.mark.filterwarnings("ignore:The classifier is random")
def test_no_false_alarm_of_neighbours(case):
    """Other warnings are errors here."""
    notes = evaluate(ALONE[case], batch_size=8).record["notes"]
    assert [note for note in notes if "random at inference" not in note] == []


def test_an_image_alone_in_its_batch_has_no_neighbours():
    assert evaluate(lambda x: tf.reshape(x, (-1, 16)) @ KERNEL - tf.reduce_mean(x), batch_size=1).record["notes"] == []

"""An exported classifier serves logits where only TensorFlow is installed."""

import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

pytestmark = pytest.mark.graph

WITHOUT_TOOLKIT = """
import sys
sys.modules["keras_robust"] = sys.modules["keras"] = None  # importing either would fail
import numpy as np, tensorflow as tf
images = np.load(sys.argv[1])
loaded = tf.saved_model.load(sys.argv[3])
np.save(sys.argv[2], loaded.serve(images).numpy())
"""


@pytest.fixture
def model():
    return kr.AdversarialTraining(kr.architectures.LeNet(), kr.attacks.FGSM(kr.Linf(0.3)))


def test_exported_logits_are_the_classifiers(model, tmp_path):
    images = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    kr.export(model, tmp_path / "export")
    kr.export(model, tmp_path / "export")  # a SavedModel is replaced
    np.save(tmp_path / "images.npy", images)
    arguments = [tmp_path / "images.npy", tmp_path / "logits.npy", tmp_path / "export"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    subprocess.run([sys.executable, "-c", WITHOUT_TOOLKIT, *arguments], check=True, env=environment, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), model.predict(images, verbose=0), atol=1e-5)


def test_a_model_with_a_classifier_inside_is_exported_as_a_whole(linear_classifier, tmp_path):
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, linear_classifier()(1 - inputs))
    model.classifier = model.layers[-1]
    images = np.random.default_rng(0).random((3, 4, 4, 1), np.float32)
    kr.export(model, tmp_path / "export")
    loaded = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(loaded.serve(images), model.predict(images, verbose=0), atol=1e-5)


def test_any_number_of_images_is_served_and_by_the_signature(model, tmp_path):
    kr.export(model.classifier, tmp_path / "export")
    loaded = tf.saved_model.load(tmp_path / "export")
    for count in (1, 5):
        assert loaded.serve(tf.zeros((count, 28, 28, 1))).shape == (count, 10)
    (logits,) = loaded.signatures["serving_default"](images=tf.zeros((2, 28, 28, 1))).values()
    assert logits.shape == (2, 10)


def augmenting(shape: tuple = (8, 8, 1)) -> keras.Model:
    """A classifier with layers that act in training mode alone, and averages that are not 0 and 1."""
    layers = [keras.layers.RandomTranslation(0.4, 0.4), keras.layers.GaussianNoise(1.0)]
    layers += [keras.layers.Conv2D(3, 3), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    classifier = keras.Sequential([keras.Input(shape), *layers])
    for variable in classifier.variables:
        if "moving" in variable.path:
            variable.assign(variable + 0.5)
    return classifier


@pytest.fixture
def images():
    return np.random.default_rng(0).random((5, 8, 8, 1), np.float32)


@pytest.mark.parametrize("by", ["kr.export", "model.export"])
def test_layers_are_in_inference_mode(tmp_path, images, by):
    """Keras's own `export` goes on augmenting, and normalises with batch statistics."""
    model = kr.AdversarialTraining(augmenting(), kr.attacks.FGSM(kr.Linf(0.1)))
    expected = model.predict(images, verbose=0)
    if by == "kr.export":
        kr.export(model, tmp_path / "export")
    else:
        model.export(tmp_path / "export", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(loaded.serve(images), expected, atol=1e-5)
    np.testing.assert_allclose(loaded.serve(images[:2]), expected[:2], atol=1e-5)
    (logits,) = loaded.signatures["serving_default"](images=tf.constant(images)).values()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_model_export_takes_the_arguments_of_keras(tmp_path, images):
    model = kr.NaturalTraining(augmenting())
    signature = [keras.InputSpec("float32", (2, 8, 8, 1))]
    model.export(str(tmp_path / "export"), format="tf_saved_model", verbose=False, input_signature=signature)
    loaded = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(loaded.serve(images[:2]), model.predict(images[:2], verbose=0), atol=1e-5)
    with pytest.raises(ValueError, match="format=pickle"):
        model.export(tmp_path / "other", format="pickle")
    assert not (tmp_path / "other").exists()


def test_model_export_of_litert_is_in_inference_mode(tmp_path, images):
    model = kr.NaturalTraining(augmenting())
    model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's interpreter moves to another package
        interpreter = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    (result,) = interpreter.get_output_details()
    np.testing.assert_allclose(interpreter.get_tensor(result["index"]), model.predict(images, verbose=0), atol=1e-5)


@pytest.mark.parametrize("by", ["kr.export", "model.export"])
def test_a_branch_is_exported_by_both(tmp_path, images, by):
    layers = [keras.Input((8, 8, 1)), kr.layers.MixtureBatchNormalization(), keras.layers.Flatten()]
    classifier = keras.Sequential([*layers, keras.layers.Dense(3)])
    classifier.layers[0].clean.moving_mean.assign([0.5])
    model = kr.AdversarialTraining(classifier, kr.attacks.FGSM(kr.Linf(0.1)))
    kr.layers.select_branch(model, "clean")
    if by == "kr.export":
        kr.export(model, tmp_path / "export")
    else:
        model.export(tmp_path / "export", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(loaded.serve(images), classifier(images, training=False), atol=1e-5)


class Decode(keras.layers.Layer):
    """Images of their bytes."""

    def call(self, strings):
        return tf.reshape(tf.io.decode_raw(strings, tf.uint8), (-1, 4, 4, 1))

    def compute_output_spec(self, strings):
        return keras.KerasTensor((strings.shape[0], 4, 4, 1), "uint8")


def flat_classifier(inputs, images) -> keras.Model:
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))))


def test_the_signature_has_the_dtype_of_the_input(tmp_path):
    """Integers and strings: a signature of floats cannot be called."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1)).astype(np.uint8)
    integers, strings = keras.Input((4, 4, 1), dtype="uint8"), keras.Input((), dtype="string")
    given = {"uint8": pixels, "string": np.array([each.tobytes() for each in pixels])}
    for inputs, images in ((integers, integers), (strings, Decode()(strings))):
        classifier = flat_classifier(inputs, images)
        kr.export(classifier, tmp_path / inputs.dtype)
        loaded = tf.saved_model.load(tmp_path / inputs.dtype)
        batch = tf.constant(given[inputs.dtype])
        np.testing.assert_allclose(loaded.serve(batch), classifier(batch), atol=1e-5)
        (logits,) = loaded.signatures["serving_default"](images=batch).values()
        np.testing.assert_allclose(logits, classifier(batch), atol=1e-5)


def test_height_and_width_may_be_left_open(tmp_path):
    model = kr.NaturalTraining(augmenting((None, None, 1)))
    kr.export(model, tmp_path / "export")
    loaded = tf.saved_model.load(tmp_path / "export")
    for size in (8, 11):
        images = np.random.default_rng(0).random((2, size, size, 1), np.float32)
        np.testing.assert_allclose(loaded.serve(images), model.predict(images, verbose=0), atol=1e-5)


def test_several_and_named_inputs(tmp_path):
    """`serve` takes what the classifier takes, and the signature the names of the inputs."""
    left, right = keras.Input((4, 4, 1), name="left"), keras.Input((4, 4, 1), name="right")
    values = {name: np.random.default_rng(0).random((3, 4, 4, 1), np.float32) for name in ("left", "right")}
    for form in ({"left": left, "right": right}, [left, right]):
        classifier = flat_classifier(form, left + 2 * right)
        given = values if isinstance(form, dict) else list(values.values())
        kr.export(classifier, tmp_path / type(form).__name__)
        loaded = tf.saved_model.load(tmp_path / type(form).__name__)
        np.testing.assert_allclose(loaded.serve(given), classifier(given), atol=1e-5)
        (logits,) = loaded.signatures["serving_default"](**{k: tf.constant(v) for k, v in values.items()}).values()
        np.testing.assert_allclose(logits, classifier(given), atol=1e-5)
    alone = flat_classifier({"left": left}, left)
    kr.export(alone, tmp_path / "alone")
    loaded = tf.saved_model.load(tmp_path / "alone")
    np.testing.assert_allclose(loaded.serve({"left": values["left"]}), alone({"left": values["left"]}), atol=1e-5)


class Numpy(keras.layers.Layer):
    """A layer that cannot be traced."""

    def call(self, images):
        return tf.constant(np.asarray(images) / 255)

    def compute_output_spec(self, images):
        return keras.KerasTensor(images.shape, "float32")


class Unbuilt(keras.Model):
    """A classifier that was never called."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(3)

    def call(self, images):
        return self.dense(self.flatten(images))


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path):
    inputs = keras.Input((4, 4, 1))
    untraceable = flat_classifier(inputs, Numpy()(inputs))
    sparse = keras.Input((16,), sparse=True)
    cases = {"cannot be exported": untraceable, "dense tensors": keras.Model(sparse, keras.layers.Dense(3)(sparse))}
    for message, classifier in {**cases, "must know the shape of its input": Unbuilt()}.items():
        with pytest.raises(ValueError, match=rf"{message}[\s\S]*Received: "):
            kr.export(classifier, tmp_path / "export")
        assert not (tmp_path / "export").exists()


def test_a_subclassed_classifier_is_exported_once_it_was_called(tmp_path, images):
    classifier = Unbuilt()
    expected = classifier(images)
    kr.NaturalTraining(classifier).export(tmp_path / "export", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(loaded.serve(images), expected, atol=1e-5)

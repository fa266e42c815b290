"""An exported classifier serves logits where only TensorFlow is installed."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

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

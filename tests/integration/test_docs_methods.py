"""The method of one's own in docs/methods.md."""

import pathlib
import re

import keras
import numpy as np
import tensorflow as tf

import keras_robust as kr

DOCS = (pathlib.Path(__file__).parents[2] / "docs" / "methods.md").read_text()


def test_a_method_of_ones_own_trains_saves_loads_and_exports(conv_classifier, batch, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    namespace: dict = {}
    exec(code, namespace)
    images, labels = batch(count=8)
    attack = kr.attacks.PGD(kr.Linf(0.1), steps=2)
    model = namespace["CosinePairing"](conv_classifier(batch_norm=True), attack, weight=0.5, validation_attack=attack)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    history = model.fit(images, labels, batch_size=4, validation_data=(images, labels), verbose=0).history
    assert set(history) == {
        *("loss", "accuracy", "robust_accuracy"),
        *("val_loss", "val_accuracy", "val_robust_accuracy"),
    }
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.weight == 0.5
    for again in (model, loaded):
        again.fit(images, labels, batch_size=4, shuffle=False, verbose=0)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-6)
    kr.export(loaded, tmp_path / "export")
    served = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(served.serve(images), loaded.predict(images, verbose=0), atol=1e-5)


def test_every_method_is_in_the_table():
    names = [name for name in kr.methods.__all__ if name[0].isupper()]
    helpers = {"RobustModel", "DetectCatastrophicOverfitting", "FreezeBatchStatistics"}
    table = re.findall(r"^\| `(\w+)", DOCS, re.MULTILINE)
    assert set(names) - helpers == set(table)

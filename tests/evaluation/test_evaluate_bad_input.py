"""What `kr.evaluate`, `Report.load` and `kr.export` refuse, and what they say."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

IMAGES = np.full((6, 4, 4, 1), 0.5, np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
ATTACK = kr.attacks.FGSM(kr.Linf(0.1))


def classifier(activation=None):
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, activation=activation)]
    return keras.Sequential(layers)


def cut_short():
    """A data set of one batch that says that it has three."""
    batches = tf.data.Dataset.from_tensors((IMAGES, LABELS))
    batches.cardinality = lambda: tf.constant(3, tf.int64)
    return batches


def late(images):
    """A data set whose second batch leaves the bounds."""
    return tf.data.Dataset.from_tensor_slices((np.concatenate([IMAGES, 2 * images]), np.tile(LABELS, 2))).batch(6)


CASES = {
    "uint8 images": (lambda: ((IMAGES * 255).astype(np.uint8), LABELS), {}, "dtype uint8"),
    "pixels to 255": (lambda: (IMAGES * 255, LABELS), {}, "images from 127.5 to 127.5"),
    "a later batch": (lambda: late(IMAGES * 1.5), {}, "images from 1.5 to 1.5"),
    "nan": (lambda: (IMAGES * np.nan, LABELS), {}, "from nan to nan"),
    "image shape": (lambda: (IMAGES[:, :2], LABELS), {}, r"\(2, 4, 1\)"),
    "labels out of range": (lambda: (IMAGES, LABELS + 1), {}, "labels from 1 to 3"),
    "negative labels": (lambda: (IMAGES, LABELS - 1), {}, "labels from -1 to 1"),
    "rank of labels": (lambda: (IMAGES, np.zeros((6, 3, 1))), {}, r"shape \(6, 3, 1\)"),
    "length of labels": (lambda: (IMAGES, LABELS[:4]), {}, "4 labels for 6 images"),
    "no examples": (lambda: (IMAGES[:0], LABELS[:0]), {}, "0 examples"),
    "no pairs": (lambda: tf.data.Dataset.from_tensors(0.0), {}, r"must yield batches"),
    "pairs of no tensors": (
        lambda: tf.data.Dataset.from_tensors(({"image": IMAGES}, LABELS)),
        {},
        "must yield batches",
    ),
    "names as labels": (lambda: (IMAGES, np.array(list("abcabc"))), {}, "labels of dtype <U1"),
    "a label that is no number": (lambda: (IMAGES, LABELS + np.array([0, 0, 0, 0, 0, np.nan])), {}, "to nan"),
    "one label": (lambda: (IMAGES, np.array(1)), {}, "0 labels for 6 images"),
    "dictionaries of other keys": (
        lambda: tf.data.Dataset.from_tensors({"pixels": IMAGES, "class": LABELS}),
        {},
        r"keys \['class', 'pixels'\]",
    ),
    "a dictionary without labels": (lambda: {"image": IMAGES}, {}, r"keys \['image'\]"),
    "unbatched dictionaries": (
        lambda: tf.data.Dataset.from_tensor_slices({"image": IMAGES, "label": LABELS}),
        {},
        r"call batch\(\)",
    ),
    "empty batches": (lambda: tf.data.Dataset.from_tensors((IMAGES[:0], LABELS[:0])), {}, "0 examples"),
    "unbatched data": (
        lambda: tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)),
        {},
        r"call batch\(\)",
    ),
    "unbatched one-hot data": (
        lambda: tf.data.Dataset.from_tensor_slices((IMAGES, np.eye(3)[LABELS])),
        {},
        r"call batch\(\)",
    ),
    "repeated data": (lambda: tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat(), {}, "a repeated dataset"),
    "data cut short": (cut_short, {}, "1 batches of 3"),
    "no data": (lambda: "mnist", {}, "type str"),
    "softmax": (None, {"model": classifier("softmax")}, "Remove the softmax"),
    "no model file": (None, {"model": "missing/best.keras"}, "missing/best.keras"),
    "no source file": (None, {"source": "missing/best.keras"}, "missing/best.keras"),
    "source of other classes": (None, {"source": lambda x: tf.reshape(x, (-1, 16))[:, :4]}, "with 4 classes"),
    "probabilities of a source": (None, {"source": lambda x: tf.nn.softmax(tf.reshape(x, (-1, 16))[:, :3])}, "softmax"),
    "no model": (None, {"model": 3}, "model=3 of type int"),
    "attack by name": (None, {"attacks": "pgd"}, "attacks='pgd'"),
    "no attacks": (None, {"attacks": []}, r"attacks=\[\]"),
    "attack twice": (None, {"attacks": [ATTACK, ATTACK]}, "must be listed once"),
    "two pixel ranges": (
        None,
        {"attacks": [ATTACK, kr.attacks.FGSM(kr.Linf(0.2, bounds=(-1, 1)))]},
        "same bounds",
    ),
    "batch size": (None, {"batch_size": 0}, "batch_size=0"),
    "seed": (None, {"seed": -1}, "seed=-1"),
    "top k": (None, {"top_k": 3}, "top_k=3"),
    "top none": (None, {"top_k": 0}, "top_k=0"),
    "precision of a function": (
        None,
        {
            "model": lambda x: tf.reshape(x, (-1, 16))[:, :3],
            "attacks": kr.attacks.PGD(kr.Linf(0.1), compute_dtype="bfloat16"),
        },
        "compute_dtype='bfloat16'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_named(name):
    make, options, received = CASES[name]
    arguments = {"model": classifier(), "dataset": make() if make else (IMAGES, LABELS), "attacks": ATTACK, **options}
    with pytest.raises(ValueError, match=f"(?s)Received.*{received}|{received}.*Received"):
        kr.evaluate(**arguments, verbose=False)


def damaged(value=np.nan):
    """A classifier with a value that is not finite in its convolution, whose ReLU makes 0 of NaN on CPU."""
    layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3, activation="relu", name="first")]
    network = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(3)], name="network")
    kernel = network.layers[0].kernel
    kernel.assign(tf.where(tf.range(18) == 4, value, tf.reshape(kernel, -1))[:, None].numpy().reshape(kernel.shape))
    return network


FORMS = {
    "classifier": lambda folder: damaged(),
    "infinite": lambda folder: damaged(np.inf),
    "robust model": lambda folder: kr.AdversarialTraining(damaged(), ATTACK),
    "file": lambda folder: damaged().save(folder / "bad.keras") or folder / "bad.keras",
    "SavedModel": lambda folder: damaged().export(folder / "bad", verbose=False) or folder / "bad",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_that_is_not_finite_is_named(form, tmp_path):
    bad, good = FORMS[form](tmp_path), classifier()
    calls = {
        "evaluate": lambda: kr.evaluate(bad, (IMAGES, LABELS), ATTACK, verbose=False),
        "source": lambda: kr.evaluate(good, (IMAGES, LABELS), ATTACK, source=bad, verbose=False),
        "matrix": lambda: kr.evaluation.transfer_matrix({"good": good, "bad": bad}, (IMAGES, LABELS), ATTACK),
        "iterations": lambda: kr.evaluation.iteration_curve(bad, (IMAGES, LABELS), ATTACK, (1, 2), verbose=False),
        "epsilons": lambda: kr.evaluation.epsilon_curve(bad, (IMAGES, LABELS), ATTACK, (0.1,), verbose=False),
        "checks": lambda: kr.evaluation.masking_checks(bad, (IMAGES, LABELS), kr.Linf(0.1)),
        "surface": lambda: kr.evaluation.loss_surface(bad, (IMAGES, LABELS), 0.1),
        "export": lambda: kr.export(bad, tmp_path / "out"),
    }
    if form == "SavedModel":
        del calls["export"]  # it takes models of Keras
    for call in calls.values():
        with pytest.raises(ValueError, match=r"first/kernel(:0)?' has 1 of 18 values that are NaN or infinite"):
            call()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["model", "SavedModel"])
def test_a_negative_variance_is_named(form, tmp_path):
    """Folded into a convolution with a ReLU behind it, its square root would be 0, and the logits finite."""
    layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3), keras.layers.BatchNormalization(name="norm")]
    model = keras.Sequential([*layers, keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.get_layer("norm").moving_variance.assign([1.0, -0.5])
    if form == "SavedModel":
        model.export(tmp_path / "model", verbose=False)
        model = tmp_path / "model"
    with pytest.raises(ValueError, match=r"must not be negative.*norm/moving_variance(:0)?' has the least value -0.5"):
        kr.evaluate(model, (IMAGES, LABELS), ATTACK, verbose=False)


@pytest.mark.parametrize("kind", ["data set", "with more keys", "arrays"])
def test_dictionaries_of_tfds_are_evaluated(kind):
    images = np.random.default_rng(0).uniform(size=(6, 4, 4, 1)).astype(np.float32)
    given = {"image": images, "label": LABELS}
    if kind == "with more keys":
        given["id"] = np.array([b"a", b"b", b"c", b"d", b"e", b"f"])
    dataset = given if kind == "arrays" else tf.data.Dataset.from_tensor_slices(given).batch(4)
    model = classifier()
    found, expected = (kr.evaluate(model, data, ATTACK, verbose=False) for data in (dataset, (images, LABELS)))
    assert found.record["labels"] == expected.record["labels"] == LABELS.tolist()
    assert found.attacks == expected.attacks


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"model\.txt"):
        kr.evaluate(tmp_path / "model.txt", (IMAGES, LABELS), ATTACK)


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"record\.json"):
        kr.Report.load(tmp_path)


def test_export_refuses_what_it_cannot_export(tmp_path):
    with pytest.raises(ValueError, match=r"missing\.keras"):
        kr.export("missing.keras", tmp_path / "out")
    with pytest.raises(ValueError, match="built Keras model"):
        kr.export(lambda x: x, tmp_path / "out")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="hold a SavedModel"):
        kr.export(classifier(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

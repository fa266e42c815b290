"""Which numbers are logged under which name, and that they are what their names say."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr

ATTACK = kr.attacks.FGSM(kr.Linf(0.3))
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(make, classifier: keras.Model, **options) -> keras.Model:
    model = make(classifier, ATTACK, **options)
    model.compile(keras.optimizers.SGD(1e-9), SPARSE, metrics=["accuracy"])
    return model


def madry(*arguments, **options) -> keras.Model:
    return kr.AdversarialTraining(*arguments, clean_fraction=0.0, **options)


def mixed(*arguments, **options) -> keras.Model:
    return kr.AdversarialTraining(*arguments, clean_fraction=0.5, **options)


@pytest.mark.parametrize(
    ("make", "training"),
    [
        (kr.AdversarialTraining, {"robust_accuracy"}),
        (madry, {"robust_accuracy"}),
        (mixed, {"accuracy", "robust_accuracy"}),
        (kr.AdversarialLogitPairing, {"accuracy", "robust_accuracy"}),
    ],
)
@pytest.mark.parametrize("validation_attack", [None, ATTACK])
def test_names(linear_classifier, batch, make, training, validation_attack):
    """Plain names are clean, `robust_` attacked; what is not seen is not logged; `val_` for validation."""
    images, labels = batch(shape=(4, 4, 1))
    model = compiled(make, linear_classifier(), validation_attack=validation_attack)
    history = model.fit(images, labels, validation_data=(images, labels), verbose=0).history
    validation = {"val_loss", "val_accuracy"} | ({"val_robust_accuracy"} if validation_attack else set())
    assert set(history) == {"loss"} | training | validation
    evaluated = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert set(evaluated) == {name.removeprefix("val_") for name in validation}


@pytest.mark.parametrize("one_hot", [False, True])
def test_values(linear_classifier, batch, one_hot):
    """Clean and robust accuracy and the loss against the classifier called directly on clean and attacked images."""
    images, labels = batch(count=64, shape=(4, 4, 1))
    classifier = linear_classifier()
    classifier.set_weights([0.3 * w for w in classifier.get_weights()])
    logits = np.asarray(classifier(images))
    x_adv = ATTACK(classifier, images, labels, 0)
    clean = (logits.argmax(axis=1) == labels).mean()
    robust = (np.asarray(classifier(x_adv)).argmax(axis=1) == labels).mean()
    assert robust < clean
    model = kr.AdversarialTraining(classifier, ATTACK, clean_fraction=1.0, validation_attack=ATTACK)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True) if one_hot else SPARSE
    model.compile(keras.optimizers.SGD(1e-9), loss, metrics=["accuracy"])
    given = np.eye(3, dtype=np.float32)[labels] if one_hot else labels
    history = model.fit(images, given, batch_size=16, validation_data=(images, given), verbose=0).history
    expected = {"accuracy": clean, "robust_accuracy": robust, "val_accuracy": clean, "val_robust_accuracy": robust}
    for name, value in expected.items():
        np.testing.assert_allclose(history[name], [value], rtol=1e-6)
    losses = [float(SPARSE(labels, classifier(x))) for x in (images, x_adv)]
    np.testing.assert_allclose(history["loss"], [np.mean(losses)], rtol=1e-4)
    np.testing.assert_allclose(history["val_loss"], [losses[0]], rtol=1e-4)


def test_clean_metrics_of_a_mixture_are_of_its_clean_images(linear_classifier, batch):
    """With clean_fraction 0.25 only the first 4 of 16 images are seen clean."""
    images, labels = batch(count=16, shape=(4, 4, 1))
    classifier = linear_classifier()
    labels[:4] = np.asarray(classifier(images)).argmax(axis=1)[:4]
    labels[4:] = (np.asarray(classifier(images)).argmax(axis=1)[4:] + 1) % 3
    model = kr.AdversarialTraining(classifier, kr.attacks.FGSM(kr.Linf(0.0)), clean_fraction=0.25)
    model.compile(keras.optimizers.SGD(1e-9), SPARSE, metrics=["accuracy"])
    history = model.fit(images, labels, batch_size=16, shuffle=False, verbose=0).history
    assert history["accuracy"] == [1.0]
    assert history["robust_accuracy"] == [0.25]


def top_logit(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    del labels
    return tf.reduce_max(logits, axis=1)


def test_metric_objects_functions_and_names(linear_classifier, batch):
    images, labels = batch(shape=(4, 4, 1))
    model = kr.AdversarialLogitPairing(linear_classifier(), ATTACK, validation_attack=ATTACK)
    top = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    model.compile("sgd", SPARSE, metrics=[top, top_logit, "sparse_categorical_accuracy"])
    names = {"top2", "top_logit", "sparse_categorical_accuracy"}
    both = names | {f"robust_{name}" for name in names}
    history = model.fit(images, labels, validation_data=(images, labels), verbose=0).history
    assert set(history) == {"loss", "val_loss"} | both | {f"val_{name}" for name in both}
    assert history["val_robust_top_logit"] != history["val_top_logit"]
    metrics = model.metrics_by_name()
    assert set(metrics) == {"loss"} | both
    assert metrics["robust_top2"].get_config()["k"] == 2


def test_weighted_metrics_take_the_weights(linear_classifier, batch):
    """Weights of 1 for what is right and 0 for the rest make weighted accuracy 1; the plain one takes no weights."""
    images, labels = batch(count=32, shape=(4, 4, 1))
    classifier = linear_classifier()
    right = np.asarray(classifier(images)).argmax(axis=1) == labels
    model = kr.AdversarialTraining(classifier, kr.attacks.FGSM(kr.Linf(0.0)), clean_fraction=1.0)
    weighted = keras.metrics.SparseCategoricalAccuracy(name="weighted")
    model.compile(keras.optimizers.SGD(1e-9), SPARSE, metrics=["accuracy"], weighted_metrics=[weighted])
    history = model.fit(images, labels, sample_weight=right.astype(np.float32), verbose=0).history
    assert history["weighted"] == history["robust_weighted"] == [1.0]
    np.testing.assert_allclose(history["accuracy"], [right.mean()], rtol=1e-6)


def test_a_weighted_metric_of_the_same_name_is_logged_beside_the_plain_one(linear_classifier, batch):
    """As in Keras, under `weighted_` plus the name; also where both are given as objects."""
    images, labels = batch(count=32, shape=(4, 4, 1))
    classifier = linear_classifier()
    right = np.asarray(classifier(images)).argmax(axis=1) == labels
    model = kr.AdversarialTraining(classifier, kr.attacks.FGSM(kr.Linf(0.0)), clean_fraction=1.0)
    both = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(1, name="top")]
    model.compile(keras.optimizers.SGD(1e-9), SPARSE, metrics=both, weighted_metrics=both)
    history = model.fit(images, labels, sample_weight=right.astype(np.float32), verbose=0).history
    for name in ("accuracy", "top"):
        np.testing.assert_allclose(history[name], [right.mean()], rtol=1e-6)
        assert history[f"weighted_{name}"] == history[f"robust_weighted_{name}"] == [1.0]


def test_metrics_keep_the_options_of_their_functions(linear_classifier, batch):
    """The best of 1, not Keras's 5, of three classes; attacked images are the clean ones here."""
    images, labels = batch(count=32, shape=(4, 4, 1))
    top = keras.metrics.MeanMetricWrapper(keras.metrics.sparse_top_k_categorical_accuracy, name="top", k=1)
    model = kr.AdversarialLogitPairing(linear_classifier(), kr.attacks.FGSM(kr.Linf(0.0)))
    model.compile(keras.optimizers.SGD(1e-9), SPARSE, metrics=[top])
    history = model.fit(images, labels, verbose=0).history
    assert history["top"] == history["robust_top"] != [1.0]


def test_metrics_start_anew_in_each_epoch(linear_classifier, batch):
    images, labels = batch(count=32, shape=(4, 4, 1))
    model = compiled(kr.AdversarialLogitPairing, linear_classifier(), validation_attack=ATTACK)
    history = model.fit(images, labels, epochs=2, validation_data=(images, labels), verbose=0).history
    for name, values in history.items():
        np.testing.assert_allclose(values[0], values[1], rtol=1e-5, err_msg=name)


def test_early_stopping_follows_robust_accuracy(linear_classifier, batch):
    images, labels = batch(shape=(4, 4, 1))
    model = compiled(kr.AdversarialTraining, linear_classifier(), validation_attack=ATTACK)
    stop = keras.callbacks.EarlyStopping("val_robust_accuracy", patience=1, restore_best_weights=True)
    history = model.fit(images, labels, epochs=5, validation_data=(images, labels), callbacks=[stop], verbose=0)
    assert len(history.epoch) == 2


def test_validation_draws_are_the_same_in_every_epoch(linear_classifier, batch):
    """From a random start, and unlike the training draws."""
    images, labels = batch(count=32, shape=(4, 4, 1))
    attack = kr.attacks.PGD(kr.Linf(0.3), steps=1, step_size=0.01)
    model = kr.AdversarialTraining(linear_classifier(), attack, validation_attack=attack)
    model.compile(keras.optimizers.SGD(0.0), SPARSE, metrics=[top_logit])
    history = model.fit(images, labels, epochs=3, batch_size=32, validation_data=(images, labels), verbose=0).history
    assert len(set(history["val_robust_top_logit"])) == 1
    assert len(set(history["robust_top_logit"])) == 3


MORE = {
    "val_accuracy": True,
    "val_robust_accuracy": True,
    "val_weighted_accuracy": True,
    "val_robust_weighted_accuracy": True,
    "val_robust_top": True,
    "val_robust_auc": True,
    "val_f1": True,
    "val_robust_cross_entropy": False,
    "val_loss": False,
    "val_robust_own": True,
}


class Own(keras.metrics.CategoricalAccuracy):
    """A metric of a user's own has the direction of its class."""


@pytest.mark.parametrize("loaded", [False, True])
def test_callbacks_know_which_way_is_better(linear_classifier, batch, tmp_path, loaded):
    """By the names of Keras's own metrics and without a mode, also after loading, and before anything is logged."""
    images, labels = batch(shape=(4, 4, 1))
    data = (images, np.eye(3, dtype=np.float32)[labels])
    model = kr.AdversarialTraining(linear_classifier(), ATTACK, validation_attack=ATTACK)
    metrics = [
        "accuracy",
        keras.metrics.TopKCategoricalAccuracy(2, name="top"),
        keras.metrics.AUC(from_logits=True, name="auc"),
        keras.metrics.F1Score(average="macro", name="f1"),
        keras.metrics.CategoricalCrossentropy(from_logits=True, name="cross_entropy"),
        Own(name="own"),
    ]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=metrics, weighted_metrics=["accuracy"])
    if loaded:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Own": Own})
    stops = {name: keras.callbacks.EarlyStopping(name, patience=9) for name in MORE}
    others = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_accuracy", save_best_only=True),
        keras.callbacks.ReduceLROnPlateau("val_robust_accuracy"),
    ]
    model.fit(*data, validation_data=data, epochs=2, callbacks=[*stops.values(), *others], verbose=0)
    assert {name: bool(stop.monitor_op(1.0, 0.0)) for name, stop in stops.items()} == MORE
    assert bool(others[0].monitor_op(1.0, 0.0))
    assert (tmp_path / "best.keras").exists()


def test_model_metrics_are_as_in_keras(linear_classifier, batch):
    """The loss and one container; `evaluate` without `return_dict` gives the values in the order of the metrics."""
    images, labels = batch(shape=(4, 4, 1))
    top = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")
    model = kr.AdversarialTraining(linear_classifier(), ATTACK, validation_attack=ATTACK)
    model.compile("sgd", SPARSE, metrics=[top, "accuracy"])
    assert [metric.name for metric in model.metrics] == ["loss", "compile_metrics"]
    logs = model.evaluate(images, labels, verbose=0, return_dict=True)
    values = model.evaluate(images, labels, verbose=0)
    assert values == [logs[name] for name in ("loss", "top", "accuracy", "robust_top", "robust_accuracy")]

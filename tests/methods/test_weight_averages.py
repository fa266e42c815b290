"""Averaged weights have statistics of batch normalisation of their own, of batches that they have seen."""

import keras
import numpy as np
import pytest
from makers import METHODS, loss_for

import keras_robust as kr
from keras_robust.methods.weight_averages import INTERVAL, averaged_weights, statistics_of

BATCH = 8
NOTHING = kr.attacks.FGSM(kr.Linf(0.0))


def ema(rate=0.1, momentum=0.7, **options):
    return keras.optimizers.SGD(rate, use_ema=True, ema_momentum=momentum, **options)


def classifier_with(normalization, classes=3):
    initializers = [keras.initializers.GlorotUniform(seed) for seed in (0, 1)]
    convolution = keras.layers.Conv2D(4, 3, 2, kernel_initializer=initializers[0])
    dense = keras.layers.Dense(classes, kernel_initializer=initializers[1])
    return keras.Sequential([keras.Input((8, 8, 1)), convolution, normalization, keras.layers.Flatten(), dense])


def batch_normalized():
    return classifier_with(keras.layers.BatchNormalization(momentum=0.99))


def compiled(model, optimizer, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **options)
    return model


def data(batch, count=BATCH):
    """Images that all batches are made of, so that any batch has the same statistics."""
    images, labels = batch(count=BATCH)
    return np.tile(images, (count // BATCH, 1, 1, 1)), np.tile(labels, count // BATCH)


def fit(model, images, labels, **options):
    return model.fit(images, labels, **{"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}).history


def statistics(model):
    return [np.array(value) for value in statistics_of(model.classifier)]


def of_batch(model, images):
    """Mean and variance behind the convolution, with the weights that the model has: after `fit`, the averages."""
    features = np.asarray(model.classifier.layers[0](images))
    return [features.mean(axis=(0, 1, 2)), features.var(axis=(0, 1, 2))]


def assert_close(got, wanted, atol=1e-5):
    assert len(got) == len(wanted) > 0
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


MODELS = {
    "natural": lambda classifier, **options: kr.NaturalTraining(classifier, **options),
    "adversarial": lambda classifier, **options: kr.AdversarialTraining(classifier, NOTHING, **options),
    "free": lambda classifier, **options: kr.FreeAdversarialTraining(classifier, NOTHING, replays=3, **options),
    "perturbed": lambda classifier, **options: kr.AdversarialTraining(
        classifier, NOTHING, clean_fraction=1.0, weight_perturbation=kr.AdversarialWeightPerturbation(0.1), **options
    ),
}


@pytest.mark.parametrize(
    ("method", "jit_compile"),
    [
        *((method, False) for method in MODELS),
        *(pytest.param(each, True, marks=pytest.mark.xla) for each in ("natural", "free")),
    ],
)
def test_fit_ends_with_the_statistics_of_the_averaged_weights(batch, method, jit_compile):
    """After one step these are of its batch, while the moving averages are 1 % of the way."""
    images, labels = data(batch)
    model = compiled(MODELS[method](batch_normalized()), ema(), jit_compile=jit_compile)
    fit(model, images, labels)
    assert np.abs(statistics(model)[1] - 1).max() > 0.1
    assert_close(statistics(model), of_batch(model, images))


def test_they_follow_the_averaged_weights(batch):
    """Far from the statistics of the last weights, whose kernels differ, after 31 steps with a pass in every tenth."""
    images, labels = data(batch, 31 * BATCH)
    model = compiled(kr.NaturalTraining(classifier_with(keras.layers.BatchNormalization(momentum=0.5))), ema(1.0, 0.95))
    last = []
    save_last = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: last.append(statistics(model)))
    fit(model, images, labels, callbacks=[save_last])
    wanted = of_batch(model, images[:BATCH])
    distances = [
        [np.abs(g - w).mean() for g, w in zip(got, wanted, strict=True)] for got in (statistics(model), last[0])
    ]
    assert np.all(np.array(distances[0]) < 0.5 * np.array(distances[1]))


def test_passes_between_count_at_the_momentum_of_the_layer(batch):
    """Weights stand still, batches differ: of three passes, at steps 1, 11 and 21, the first two count alike."""
    images, labels = batch(count=21 * BATCH)
    model = compiled(kr.NaturalTraining(classifier_with(keras.layers.BatchNormalization(momentum=0.95))), ema(0.0))
    fit(model, images, labels)
    first, second, third = (of_batch(model, images[i * BATCH : (i + 1) * BATCH]) for i in (0, INTERVAL, 2 * INTERVAL))
    momentum = 0.95**INTERVAL  # 0.599, and 1/2 at the second pass
    wanted = [momentum * (a + b) / 2 + (1 - momentum) * c for a, b, c in zip(first, second, third, strict=True)]
    assert_close(statistics(model), wanted)


def test_both_branches_of_a_mixture(batch):
    images, labels = data(batch)
    classifier = classifier_with(kr.layers.MixtureBatchNormalization())
    model = compiled(kr.AdversarialTraining(classifier, NOTHING, clean_fraction=1.0), ema())
    fit(model, images, labels)
    assert_close(statistics(model), 2 * of_batch(model, images))


@pytest.mark.multi_device
@pytest.mark.parametrize("synchronized", [False, True])
def test_under_two_replicas(two_replicas, batch, tmp_path, synchronized):
    """The mean over the replicas, of which each has half of the batch; saved and loaded."""
    images, labels = data(batch)
    with two_replicas.scope():
        classifier = classifier_with(keras.layers.BatchNormalization(synchronized=synchronized))
        model = compiled(kr.NaturalTraining(classifier), ema())
    fit(model, images, labels)
    halves = [of_batch(model, half) for half in np.split(images, 2)]
    assert_close(statistics(model), np.mean(halves, axis=0))
    model.save(tmp_path / "model.keras")
    with two_replicas.scope():
        loaded = keras.models.load_model(tmp_path / "model.keras")
    with averaged_weights(loaded):
        assert_close(statistics(loaded), statistics(model))


@pytest.mark.parametrize("kind", ["accumulation", "scaling", "overwriting"])
def test_other_options_of_the_optimizer(batch, kind):
    """The averages may be in an optimizer inside one that scales losses, and may overwrite the weights in training."""
    images, labels = data(batch, 2 * BATCH)
    options = {"accumulation": {"gradient_accumulation_steps": 2}, "overwriting": {"ema_overwrite_frequency": 2}}
    optimizer = ema(**options.get(kind, {}))
    if kind == "scaling":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    model, last = compiled(kr.NaturalTraining(batch_normalized()), optimizer), []
    save_last = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: last.append(statistics(model)))
    fit(model, images, labels, callbacks=[save_last])
    assert_close(statistics(model), of_batch(model, images[:BATCH]), atol=0.05)
    assert np.allclose(last[0], statistics(model)) == (kind == "overwriting")


def test_a_saved_model_goes_on_with_them(batch, tmp_path):
    """A model that was saved in the middle of training, as `last.keras` is."""
    images, labels = batch(count=2 * BATCH)
    model = compiled(kr.NaturalTraining(batch_normalized()), ema())
    save = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: model.save(tmp_path / f"{epoch}.keras"))
    fit(model, images, labels, epochs=8, callbacks=[save])
    loaded = keras.models.load_model(tmp_path / "2.keras")
    fit(loaded, images, labels, epochs=8, initial_epoch=3)
    assert_close(loaded.classifier.get_weights(), model.classifier.get_weights())


def test_a_file_without_them_loads(batch, tmp_path):
    """They begin where the statistics are."""
    images, labels = data(batch, 2 * BATCH)
    model = compiled(kr.NaturalTraining(batch_normalized()), ema())
    fit(model, images, labels)
    model.averages.known = False  # as files were written before
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    own = statistics(loaded)
    with averaged_weights(loaded):
        assert_close(statistics(loaded), own, atol=0)
    fit(loaded, images[:BATCH], labels[:BATCH])
    assert_close(statistics(loaded), own)  # no pass in the third step


def test_validated_averages_have_their_statistics(batch):
    images, labels = data(batch)
    model = compiled(kr.NaturalTraining(batch_normalized()), ema())
    history = fit(model, images, labels, validation_data=(images, labels), callbacks=[kr.training.ValidateAverages()])
    assert history["val_loss"][0] == pytest.approx(
        float(model.evaluate(images, labels, verbose=0, return_dict=True)["loss"]), rel=1e-5
    )


def test_weights_swapped_without_their_statistics_are_warned_of(batch):
    images, labels = data(batch)
    model = compiled(kr.NaturalTraining(batch_normalized()), ema())
    with pytest.warns(UserWarning, match="ValidateAverages"):
        fit(model, images, labels, callbacks=[keras.callbacks.SwapEMAWeights()])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_them(conv_classifier, batch, method):
    images, labels = data(batch)
    model = METHODS[method](conv_classifier(batch_norm=True))
    model.compile(ema(), loss_for(method), metrics=["accuracy"])
    labels = keras.utils.to_categorical(labels, 3) if method == "mixup" else labels
    before, options = statistics(model), {"validation_data": (images, labels)} if method == "fast" else {}
    fit(model, images, labels, **options)
    assert np.abs(statistics(model)[1] - before[1]).max() > 0.3  # moving averages would have gone a tenth of the way


def test_without_an_average_of_the_weights_nothing_is_kept(batch):
    images, labels = data(batch)
    model = compiled(kr.NaturalTraining(batch_normalized()), keras.optimizers.SGD(0.1))
    fit(model, images, labels)
    assert np.abs(statistics(model)[1] - 1).max() < 0.02
    assert not model.averages.values

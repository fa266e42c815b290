"""A classifier with folded batch normalisation computes the same logits and gradients, with fewer operations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust import architectures
from keras_robust.attacks import as_model_fn
from keras_robust.core.keras_private import flatten_layers, own_call
from keras_robust.layers.fast_inference import fast_inference, foldable_pairs


@pytest.fixture(autouse=True)
def fixed_weights():
    """Initial weights are the same in each run."""
    keras.utils.set_random_seed(0)


CLASSIFIERS = {
    "CifarResNet": (lambda: architectures.CifarResNet(8), 7, 7),
    "mixture of statistics": (lambda: architectures.CifarResNet(8, normalization="mixture_batch"), 7, 14),
    "pre-activation": (lambda: architectures.CifarResNet(8, version=2), 4, 7),
    "WideResNet": (lambda: architectures.WideResNet(10, 1, input_shape=(16, 16, 3)), 3, 7),
    "RevNet": (lambda: architectures.RevNet(14, filters=(8, 8, 16, 24), input_shape=(16, 16, 3)), 7, 13),
    "LeNet": (lambda: architectures.LeNet(input_shape=(12, 12, 1)), 0, 0),
    "depthwise": (lambda: small("depthwise"), 3, 3),
}
"""Makers, how many normalisations can be folded, and how many there are."""


def small(kind: str) -> keras.Model:
    """Convolutions and a dense layer, each before a batch normalisation."""
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(6, 3, use_bias=kind != "no bias")]
    layers += [keras.layers.BatchNormalization(), keras.layers.ReLU()]
    layers += [keras.layers.DepthwiseConv2D(3, depth_multiplier=2), keras.layers.BatchNormalization(scale=False)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(4), keras.layers.BatchNormalization(center=False)]
    return keras.Sequential(layers)


def trained(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives the batch normalisations statistics, scales and offsets as of training."""
    rng = np.random.default_rng(seed)
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                positive = "gamma" in weight.path or "variance" in weight.path
                weight.assign(rng.uniform(0.5, 1.5, weight.shape) if positive else rng.normal(0, 0.3, weight.shape))
    return model


def images_for(model, count=3):
    return np.random.default_rng(1).uniform(size=(count, *model.input_shape[1:])).astype(np.float32)


def logits_and_gradient(model_fn, images):
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = model_fn(images)
        value = tf.reduce_sum(logits[:, 0])
    return logits.numpy(), tape.gradient(value, images).numpy()


def assert_close(expected, got, tolerance=1e-5):
    for one, two in zip(expected, got, strict=True):
        np.testing.assert_allclose(two, one, atol=tolerance * np.abs(one).max())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_logits_and_gradients_are_the_same(name, float64):
    """In float64, where rounding takes no ReLU to its other side."""
    make, folded, normalizations = CLASSIFIERS[name]
    model = trained(make())
    found = [layer for layer in flatten_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(found) == normalizations
    assert len(foldable_pairs(model)) == folded
    plain, fast = (as_model_fn(model, fold=fold) for fold in (False, True))
    images = images_for(model).astype(np.float64)
    assert_close(logits_and_gradient(plain, images), logits_and_gradient(fast, images), 1e-10)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_in_float32_logits_agree_to_1e_4(name):
    model = trained(CLASSIFIERS[name][0]())
    images = images_for(model)
    plain, fast = (as_model_fn(model, fold=fold)(images) for fold in (False, True))
    np.testing.assert_allclose(fast, plain, atol=1e-4)


@pytest.mark.graph
def test_nothing_is_left_of_what_was_folded():
    model = trained(small("all"))
    graph = tf.function(as_model_fn(model)).get_concrete_function(images_for(model)).graph
    names = {operation.name for operation in graph.get_operations()}
    assert not [name for name in names if "batch_norm" in name and name.endswith(("/mul", "/add", "/add_1", "/sub"))]


@pytest.mark.xla
def test_it_compiles_with_xla():
    model = trained(small("all"))
    images = images_for(model)
    expected = as_model_fn(model, fold=False)(images)
    got = tf.function(as_model_fn(model), jit_compile=True)(images)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(dtype):
    """Products of float32 weights are rounded once."""
    model = trained(small("all"))
    images = images_for(model, 16)
    exact, got = as_model_fn(model, fold=False)(images), as_model_fn(model, compute_dtype=dtype)(images)
    assert got.dtype == tf.float32
    assert 0 < np.abs(got - exact).max() < 0.05 * np.abs(exact).max()


def test_branches_of_a_mixture_are_chosen():
    model = trained(architectures.CifarResNet(8, normalization="mixture_batch"))
    images = images_for(model)
    logits = []
    for branch in kr.layers.BRANCHES:
        with kr.layers.use_branch(branch):
            logits.append(as_model_fn(model)(images).numpy())
            np.testing.assert_allclose(logits[-1], as_model_fn(model, fold=False)(images), rtol=1e-4, atol=1e-4)
    assert np.abs(logits[0] - logits[1]).max() > 1e-2


def shared(kind: str) -> keras.Model:
    """Models with one convolution that must not be folded."""
    inputs = keras.Input((8, 8, 6))
    options = {"activation": {"activation": "relu"}, "regularised": {"activity_regularizer": "l2"}}.get(kind, {})
    convolution = (Scaled if kind == "subclass" else keras.layers.Conv2D)(6, 3, padding="same", **options)
    normalize = keras.layers.BatchNormalization(axis=1 if kind == "axis" else -1)
    x = convolution(inputs)
    if kind == "two users":
        x = keras.layers.Add()([normalize(x), x])
    elif kind == "called twice":
        x = convolution(normalize(x))
    elif kind == "normalisation called twice":
        x = normalize(keras.layers.ReLU()(normalize(x)))
    elif kind == "output":
        outputs = keras.layers.Flatten()(normalize(x))
        return keras.Model(inputs, [outputs, x])
    else:
        x = normalize(x)
    return keras.Model(inputs, keras.layers.Flatten()(x))


class Scaled(keras.layers.Conv2D):
    """It may compute anything."""

    def call(self, inputs):
        return 2.0 * super().call(inputs) ** 2


KINDS = ["activation", "regularised", "subclass", "axis", "two users", "called twice", "normalisation called twice"]


@pytest.mark.parametrize("kind", [*KINDS, "output"])
def test_what_cannot_be_folded_is_left_alone(kind):
    model = trained(shared(kind))
    assert foldable_pairs(model) == []
    images = images_for(model)
    expected = model(images, training=False)
    with fast_inference(model):
        got = model(images, training=False)
    keras.tree.map_structure(np.testing.assert_array_equal, got, expected)


class Lazy(keras.Model):
    """A subclassed model that builds its layers in its first call, and has one that it never calls."""

    def __init__(self):
        super().__init__()
        self.convolution, self.unused = keras.layers.Conv2D(4, 3, padding="same"), keras.layers.Conv2D(4, 3)
        self.dense = keras.layers.Dense(3)

    def call(self, images):
        return self.dense(keras.ops.mean(self.convolution(images), axis=(1, 2)))


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer 'lazy'")
def test_layers_may_be_built_by_the_first_call():
    model, images = Lazy(), np.ones((2, 8, 8, 3), np.float32)
    np.testing.assert_allclose(as_model_fn(model)(images), model(images), atol=1e-6)
    np.testing.assert_allclose(as_model_fn(model)(images), model(images), atol=1e-6)


def test_models_inside_of_models_are_folded():
    inner = trained(small("all"))
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.ReLU()(inner(inputs)))
    assert len(foldable_pairs(model)) == 3
    images = images_for(model)
    assert_close(
        logits_and_gradient(as_model_fn(model, fold=False), images), logits_and_gradient(as_model_fn(model), images)
    )


def test_calls_come_back_also_after_an_error():
    model = trained(small("all"))
    convolution, normalization = foldable_pairs(model)[0]

    def fail():
        with fast_inference(model):
            assert own_call(normalization) not in (None, frozen)
            raise KeyError

    with kr.layers.frozen_statistics(model):
        frozen = own_call(normalization)
        with pytest.raises(KeyError):
            fail()
        assert own_call(normalization) is frozen
    assert own_call(convolution) is own_call(normalization) is None


def test_new_weights_are_seen_by_the_next_call():
    model = trained(small("all"))
    images, model_fn = images_for(model), as_model_fn(model)
    before = model_fn(images)
    trained(model, seed=5)
    assert np.abs(before - model_fn(images)).max() > 1e-2
    np.testing.assert_allclose(model_fn(images), model(images, training=False), atol=1e-5)


@pytest.mark.graph
def test_attacks_find_the_same():
    """PGD from random starts, on labels that a third of the examples keep."""
    model = trained(architectures.CifarResNet(8, input_shape=(8, 8, 3)))
    images = images_for(model, 200)
    labels = model.predict(images, verbose=0).argmax(1)
    attack, robust = kr.attacks.PGD(kr.Linf(0.03), steps=5), []
    for fold in (False, True):
        model_fn = as_model_fn(model, fold=fold)
        attacked = tf.function(lambda model_fn=model_fn: attack(model_fn, images, labels, 0), autograph=False)()
        robust.append(model.predict(attacked, verbose=0).argmax(1) == labels)
    assert 0.1 < robust[0].mean() < 0.9
    assert np.sum(robust[0] != robust[1]) <= 1

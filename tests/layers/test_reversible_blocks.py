"""Reversible blocks: the same numbers as with stored activations, in every way in which a classifier is run."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.layers import ReversibleBlocks, make_normalization, use_branch

pytestmark = pytest.mark.graph

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ATTACK = kr.attacks.PGD(kr.Linf(0.1), steps=2)


def slow(*values) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


def residual(channels: int, normalization: str | None, seed: int) -> keras.Model:
    """A function of half of the channels: normalisation, activation and a convolution."""
    initializer = keras.initializers.GlorotUniform(seed)
    inputs = keras.Input((4, 4, channels))
    if normalization == "dropout":
        x = keras.layers.Dropout(0.5, seed=seed)(inputs)
    else:
        x = inputs if normalization is None else make_normalization(normalization, channels)(inputs)
    x = keras.layers.Activation("tanh")(x)
    return keras.Model(inputs, keras.layers.Conv2D(channels, 3, padding="same", kernel_initializer=initializer)(x))


def make_classifier(recompute: bool = True, normalization: str | None = "batch", blocks: int = 2) -> keras.Model:
    """Images of 4 x 4 pixels to 3 logits, with the same initial weights each time."""
    initializer = keras.initializers.GlorotUniform(99)
    functions = [residual(3, normalization, seed) for seed in range(2 * blocks)]
    layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(6, 1, kernel_initializer=initializer)]
    layers += [ReversibleBlocks(functions, recompute), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(3, kernel_initializer=initializer)])


def data(count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(size=(count, 4, 4, 1)).astype("float32"), rng.integers(0, 3, count)


def gradients(model: keras.Model, context=None, training: bool = True) -> list[np.ndarray]:
    """The loss and its gradients in images and weights, taken outside of the context of the pass; statistics move."""
    images, labels = data()
    x, weights = tf.constant(images), [v.value for v in model.trainable_variables]

    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            if context is None:
                loss = SPARSE(labels, model(x, training=training))
            else:
                with context(model):
                    loss = SPARSE(labels, model(x, training=training))
        of_all = tape.gradient(loss, [x, *weights], unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [loss, *of_all]

    return run


def in_eager_execution(run):
    return run()


def assert_same(
    model: keras.Model, expected: keras.Model, execute, reference=in_eager_execution, atol: float = 1e-5, **options
) -> None:
    """Loss, gradients, and afterwards all weights and statistics, are the same."""
    got, wanted = execute(gradients(model, **options)), reference(gradients(expected, **options))
    assert any(np.abs(each).max() > 1e-3 for each in wanted[2:])
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def in_graph(run):
    return tf.function(run)()


def in_xla(run):
    return tf.function(run, jit_compile=True)()


@pytest.mark.parametrize("normalization", [slow(None), "batch", "mixture_batch", slow("group"), "dropout"])
def test_the_numbers_are_those_of_stored_activations(normalization):
    model, expected = make_classifier(True, normalization), make_classifier(False, normalization)
    before = [np.array(v) for v in model.variables]
    assert_same(model, expected, in_graph)
    moved = [np.abs(a - b).max() > 1e-3 for a, b in zip(map(np.array, model.variables), before, strict=True)]
    # Of batch normalisation both averages, of one branch alone, and of dropout what it draws from, in 4 functions.
    assert sum(moved) == {None: 0, "group": 0, "batch": 8, "mixture_batch": 8, "dropout": 4}[normalization]


def test_in_eager_execution():
    assert_same(make_classifier(), make_classifier(False), in_eager_execution)


@pytest.mark.xla
@pytest.mark.parametrize("blocks", [1, slow(3)])
def test_in_xla(blocks):
    assert_same(make_classifier(blocks=blocks), make_classifier(False, blocks=blocks), in_xla)


def test_in_inference_mode_nothing_moves():
    model = make_classifier()
    before = model.get_weights()
    assert_same(model, make_classifier(False), in_graph, training=False)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("context", "normalization"),
    [
        (lambda model: use_branch("clean"), "mixture_batch"),
        (lambda model: kr.layers.frozen_statistics(model), "batch"),
    ],
    ids=["branch", "frozen"],
)
def test_the_second_pass_is_in_the_context_of_the_first(context, normalization):
    """The gradient is taken after the context has ended, and would be that of other batch normalisation."""
    model, expected = make_classifier(normalization=normalization), make_classifier(False, normalization)
    assert_same(model, expected, in_graph, context=context)
    plain, other = make_classifier(False, normalization), make_classifier(False, normalization)
    differ = zip(gradients(plain)(), gradients(other, context)(), strict=True)
    assert max(np.abs(a - b).max() for a, b in differ) > 1e-3


@pytest.mark.parametrize(
    ("training", "compute_dtype"), [(False, None), slow(True, None), slow(False, "bfloat16"), slow(True, "bfloat16")]
)
def test_attacks_are_the_same(training, compute_dtype):
    """Inside the loop of an attack, also in training mode, whose statistics are dropped, and in low precision."""
    images, labels = data()
    attacked = []
    for recompute in (True, False):
        model = make_classifier(recompute)
        before = model.get_weights()
        model_fn = kr.attacks.as_model_fn(model, training=training, compute_dtype=compute_dtype)
        run = lambda x, model_fn=model_fn: ATTACK(model_fn, x, labels, 0)  # noqa: E731
        attacked.append((tf.function(run) if recompute else run)(tf.constant(images)))
        assert {layer.dtype_policy.name for layer in model._flatten_layers()} == {"float32"}
        for a, b in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)
    differ = np.abs(attacked[0] - attacked[1]) > 1e-5
    assert differ.mean() < (0.05 if compute_dtype else 0.01)  # signs of gradients that are nearly zero


def test_mixed_precision():
    """Halves are float32; gradients are those of stored activations, which are rounded no less."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, expected = make_classifier(), make_classifier(False)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.layers[1](np.zeros((1, 4, 4, 6), "float32")).dtype == tf.float32
    assert_same(model, expected, in_graph, reference=in_graph, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pairing", "perturbed"])
def test_training_is_the_same(method):
    """Also where weights are moved for a while."""
    weights = []
    for recompute in (True, False):
        if method == "pairing":
            model = kr.AdversarialLogitPairing(make_classifier(recompute, "mixture_batch"), ATTACK)
        else:
            perturbation = kr.AdversarialWeightPerturbation(gamma=0.1)
            model = kr.AdversarialTraining(make_classifier(recompute), ATTACK, weight_perturbation=perturbation)
        model.compile(keras.optimizers.SGD(0.1), SPARSE)
        model.fit(*data(), batch_size=4, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
@pytest.mark.multi_device
@pytest.mark.parametrize("normalization", ["group", "synchronized_batch"])
def test_two_replicas_train_as_one(two_replicas, normalization):
    weights = []
    for scope in (two_replicas.scope, tf.distribute.get_strategy().scope):
        with scope():
            model = kr.AdversarialTraining(make_classifier(normalization=normalization), kr.attacks.FGSM(kr.Linf(0.1)))
            model.compile(keras.optimizers.SGD(0.1), SPARSE)
            model.fit(*data(), batch_size=8, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_round_trip(tmp_path):
    images, _ = data()
    model = make_classifier(normalization="mixture_batch")
    gradients(model)()
    kr.layers.select_branch(model, "clean")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    kr.layers.select_branch(model, "adversarial")
    assert np.abs(loaded(images) - model(images)).max() > 1e-3
    assert loaded.layers[1].recompute


def test_normalization_inside_is_exchanged():
    images, _ = data()
    model = make_classifier()
    gradients(model)()
    copy = kr.layers.replace_normalization(model, "mixture_batch")
    for branch in kr.layers.BRANCHES:
        with use_branch(branch):
            np.testing.assert_allclose(copy(images), model(images), atol=1e-5)
    assert len(copy.weights) == len(model.weights) + 4 * 4


def test_an_exported_classifier_can_be_differentiated(tmp_path):
    images, _ = data()
    model = make_classifier()
    kr.export(model, tmp_path / "exported")
    served = tf.saved_model.load(tmp_path / "exported")
    results = []
    for function in (served.serve, model):
        x = tf.constant(images)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(function(x)[:, 0])
        results.append(tape.gradient(value, x))
    np.testing.assert_allclose(*results, atol=1e-5)
    assert model.layers[1].recompute


@pytest.mark.slow
@pytest.mark.xla
def test_xla_does_not_merge_the_passes():
    """Of 6 functions 5 are computed twice: f of the first block takes no part in the gradient of what comes before."""
    counts = []
    for recompute in (True, False):
        run = tf.function(gradients(make_classifier(recompute, blocks=3)), jit_compile=True)
        program = run.experimental_get_compiler_ir()(stage="optimized_hlo")
        counts.append(sum(" convolution(" in line for line in program.splitlines()))
    assert counts[0] - counts[1] == 5


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([], "functions=\\[\\]"),
        ([residual(2, None, 0)], "an even number"),
        ([keras.layers.Conv2D(2, 1)] * 2, "built"),
        ([residual(2, None, 0)] * 2, "must not share variables"),
    ],
)
def test_bad_functions(functions, message):
    with pytest.raises(ValueError, match=message):
        ReversibleBlocks(functions)


def test_odd_channels():
    layer = ReversibleBlocks([residual(2, None, 0), residual(2, None, 1)])
    with pytest.raises(ValueError, match="Received: input_shape=\\(2, 4, 4, 5\\)"):
        layer(np.zeros((2, 4, 4, 5), "float32"))

"""Custom gradients: the numbers of `tf.custom_gradient`, and graphs that are freed."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks.attack import scale_gradient
from keras_robust.core.execution import custom_gradient

pytestmark = pytest.mark.graph


def cubes(decorator):
    """(x^3, x y) with gradients that are 10 and 100 times too large, to be seen."""

    def function(x, y):
        def gradient(of_cube, of_product):
            return 10.0 * (3.0 * x**2 * of_cube + y * of_product), 100.0 * x * of_product

        return (x**3, x * y), gradient

    return decorator(function)


def derivatives(function, x, y):
    """Values, gradients, and gradients of the gradients."""
    with tf.GradientTape() as outer:
        outer.watch([x, y])
        with tf.GradientTape() as inner:
            inner.watch([x, y])
            cube, product = function(x, y)
            value = tf.reduce_sum(cube + 2.0 * product)
        gradients = inner.gradient(value, [x, y])
        norm = tf.add_n([tf.reduce_sum(gradient**2) for gradient in gradients])
    return [cube, product, *gradients, *outer.gradient(norm, [x, y])]


def in_a_loop(function, x, y):
    """Gradients through a loop, whose body is a graph of its own."""
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        end = tf.while_loop(lambda i, _: i < 2, lambda i, z: (i + 1, function(z, y)[0]), (0, x), maximum_iterations=3)[
            1
        ]
    return [end, *tape.gradient(end, [x, y], unconnected_gradients=tf.UnconnectedGradients.ZERO)]


@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.xla)])
@pytest.mark.parametrize("take", [derivatives, in_a_loop])
def test_the_numbers_are_those_of_tensorflow(take, mode):
    x, y = tf.constant([1.0, -2.0, 0.5]), tf.constant([3.0, 1.0, -1.0])
    results = []
    for decorator in (tf.custom_gradient, custom_gradient):

        def run(x, y, decorator=decorator):
            return take(cubes(decorator), x, y)

        compiled = tf.function(run, autograph=False, jit_compile=mode == "xla")
        results.append((run if mode == "eager" else compiled)(x, y))
    for actual, expected in zip(results[1], results[0], strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert any(np.abs(each).max() > 1.0 for each in results[0])


def test_the_graph_is_freed():
    graphs = []

    def run(x):
        function = cubes(custom_gradient)
        graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
        first = function(x, x)
        return derivatives(function, first[0], x)

    tf.function(run, autograph=False)(tf.constant([1.0]))
    gc.collect()
    assert [graph() for graph in graphs] == [None] * len(graphs) != []


def live_graphs() -> int:
    gc.collect()
    return sum(type(each).__name__ == "FuncGraph" for each in gc.get_objects())


def reversible() -> keras.Model:
    def half(seed):
        inputs = keras.Input((6, 6, 2))
        initializer = keras.initializers.GlorotUniform(seed)
        return keras.Model(inputs, keras.layers.Conv2D(2, 3, padding="same", kernel_initializer=initializer)(inputs))

    blocks = kr.layers.ReversibleBlocks([half(0), half(1)])
    return keras.Sequential([keras.Input((6, 6, 4)), blocks, keras.layers.Flatten(), keras.layers.Dense(3)])


def image_convolutions() -> keras.Model:
    layers = [kr.layers.ImageConvolution(4, 3), kr.layers.ImageConvolution(2, 3)]
    return keras.Sequential([keras.Input((6, 6, 4)), *layers, keras.layers.Flatten(), keras.layers.Dense(3)])


USES = {
    "ImageConvolution": (image_convolutions, None),
    "ReversibleBlocks": (reversible, None),
    "scaled gradients": (lambda: keras.Sequential([keras.Input((6, 6, 4)), keras.layers.Flatten()]), "float16"),
}


@pytest.mark.parametrize("use", USES)
def test_graphs_of_attacks_are_freed(use):
    """Each attack is compiled anew; after the first, which Keras and TensorFlow learn from, none remains."""
    make, compute_dtype = USES[use]
    model = make()
    images, labels = np.full((4, 6, 6, 4), 0.5, np.float32), np.zeros(4, np.int64)
    counts = []
    for _ in range(3):
        attack = kr.attacks.PGD(kr.Linf(0.1), steps=2, compute_dtype=compute_dtype)
        model_fn = kr.attacks.as_model_fn(model, compute_dtype=compute_dtype)
        tf.function(lambda attack=attack, model_fn=model_fn: attack(model_fn, images, labels, 0), autograph=False)()
        counts.append(live_graphs())
    assert counts[1:] == counts[:1] * 2


def test_a_scaled_gradient_is_exact():
    x = tf.constant([1.0, -3.0, 7.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.function(scale_gradient)(x, 8.0)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(tape.gradient(y, x), [8.0] * 3)

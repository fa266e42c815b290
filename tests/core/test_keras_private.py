"""Private parts of Keras and TensorFlow: each test fails when a new version has changed one."""

import logging
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust
from keras_robust.core.keras_private import (
    BegunDataset,
    KerasModel,
    add_losses,
    averages_of_weights,
    caches_of,
    copy_metric,
    first_of_replicas,
    flatten_layers,
    graph_of,
    own_call,
    replace_call,
    set_direction,
    traced_for_xla,
    without_tracing_warning,
    wrapped_function,
)

PRIVATE = re.compile(
    r"(?<=[\w)\]])(?<!self)(?<!cls)(?<!super\(\))(?<!keras_robust)\._(?!asdict|fields)[a-z]\w*(?!\w*\()|\b_(compile_metrics|loss_tracker)\b"
)
"""What belongs to a library; functions of our own modules with an underscore are called with a bracket."""

IMAGES, LABELS = np.ones((8, 3), np.float32), np.arange(8) % 2


class Doubling(keras.Model):
    """A subclassed model with a layer in it."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, inputs):
        return 2.0 * self.dense(inputs)


class Small(KerasModel):
    """A model of one layer."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def compiled(model, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["sparse_categorical_accuracy"], **options)
    return model


def test_layers_nested_in_any_kind_of_model():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="inner")])
    subclassed = Doubling()
    inputs = keras.Input((3,))
    model = keras.Model(inputs, subclassed(inner(inputs)))
    found = flatten_layers(model)
    assert found[0] is model
    assert {id(inner), id(inner.layers[0]), id(subclassed), id(subclassed.dense)} <= {id(layer) for layer in found}


@pytest.mark.parametrize("nested", [False, True])
def test_a_layer_computes_with_another_call_until_it_has_its_own_back(nested):
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    model = keras.Sequential([keras.Input((3,)), layer]) if nested else layer
    before = np.asarray(model(IMAGES))
    replace_call(layer, lambda inputs, training=None: tf.zeros((len(inputs), 2)))
    assert own_call(layer) is not None
    np.testing.assert_array_equal(model(IMAGES), np.zeros((8, 2)))
    replace_call(layer, None)
    assert own_call(layer) is None
    np.testing.assert_array_equal(model(IMAGES), before)


def test_losses_are_added_to_a_functional_model():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(NotImplementedError):
        model.add_loss(tf.constant(1.0))  # why there is a way around
    add_losses(model, [tf.constant(2.0)])
    assert [float(loss) for loss in model.losses] == [2.0]


def absolute(labels, outputs, scale=1.0):
    return scale * tf.reduce_mean(tf.abs(outputs), axis=-1)


def test_a_wrapped_function_and_its_options():
    metric = keras.metrics.MeanMetricWrapper(absolute, name="absolute", scale=3.0)
    assert wrapped_function(metric) == (absolute, {"scale": 3.0})
    assert wrapped_function(keras.metrics.SparseCategoricalAccuracy()) is None
    assert wrapped_function(absolute) is None


@pytest.mark.parametrize(
    "metric",
    [
        keras.metrics.MeanMetricWrapper(absolute, name="absolute", scale=3.0),
        keras.metrics.SparseTopKCategoricalAccuracy(k=1, name="top"),
    ],
    ids=["function", "class"],
)
def test_a_copy_computes_the_same_by_itself(metric):
    copy = copy_metric(metric, "other")
    outputs = np.array([[3.0, 1.0], [1.0, 2.0]], np.float32)
    copy.update_state(np.array([0, 0]), outputs)
    assert copy.name == "other"
    assert float(metric(np.array([0, 0]), outputs)) == float(copy.result()) != 0.0
    copy.reset_state()
    assert float(metric.result()) != 0.0


@pytest.mark.parametrize(("direction", "best"), [("up", 2.0), ("down", 1.0)])
def test_callbacks_without_a_mode_go_by_the_direction(direction, best):
    metric = keras.metrics.MeanMetricWrapper(absolute, name="mine")
    set_direction(metric, direction)
    metric = copy_metric(metric, "mine")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse", metrics=[metric])
    model.fit(IMAGES, np.ones((8, 2)), verbose=0)
    callback = keras.callbacks.EarlyStopping("mine", patience=9)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate((1.0, 2.0)):
        callback.on_epoch_end(epoch, {"mine": value})
    assert callback.best == best


def test_averages_of_an_optimizer():
    """After updates to 3 and 2 at momentum 0.5: it begins with the first one."""
    variable = keras.Variable([4.0])
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    optimizer.build([variable])
    for _ in range(2):
        optimizer.apply([tf.constant([1.0])])
    (average,) = averages_of_weights(optimizer)
    np.testing.assert_allclose(average, [0.5 * 3.0 + 0.5 * 2.0])


def test_a_begun_data_set_goes_on_with_its_iterator_once():
    data = tf.data.Dataset.range(4)
    iterator = iter(data)
    next(iterator)
    begun = BegunDataset(data, iterator)
    assert begun.element_spec == data.element_spec
    assert [int(each) for each in begun] == [1, 2, 3]
    assert [int(each) for each in begun] == [0, 1, 2, 3]
    assert [int(each) for each in begun.map(lambda x: 2 * x)] == [0, 2, 4, 6]
    assert int(begun.cardinality()) == 4


def test_caches_anywhere_in_a_data_set():
    data = tf.data.Dataset.range(4)
    cached = data.cache()
    assert caches_of(data.map(lambda x: x)) == []
    assert caches_of(tf.data.Dataset.zip(data, cached.map(lambda x: x)).batch(2)) == [cached]
    assert caches_of(BegunDataset(cached, iter(cached))) == [cached]


@pytest.mark.multi_device
def test_what_the_first_replica_has(two_replicas):
    data = two_replicas.experimental_distribute_dataset(tf.data.Dataset.range(4).batch(4))
    np.testing.assert_array_equal(first_of_replicas(next(iter(data))), [0, 1])
    assert first_of_replicas(3) == 3


@pytest.mark.graph
@pytest.mark.parametrize("silent", [False, True])
def test_warnings_of_tracing(silent, caplog):
    """The warning that is switched off is still there without the switch."""
    with caplog.at_level(logging.WARNING, "tensorflow"):
        for number in range(12):
            function = tf.function(lambda x: x + 1)
            function = without_tracing_warning(function) if silent else function
            function(tf.constant(number))
            function(tf.zeros((number,)))
    assert ("triggered tf.function retracing" in caplog.text) != silent


def test_metrics_are_known_before_the_first_step():
    model = compiled(Small())
    assert set(model.metrics_by_name()) == {"loss"}
    model.build_metrics()
    assert set(model.metrics_by_name()) == {"loss", "sparse_categorical_accuracy"}
    assert [model.is_container(metric) for metric in model.metrics] == [False, True]


def test_the_loss_metric_holds_the_logged_loss():
    model = compiled(Small())
    history = model.fit(IMAGES, LABELS, verbose=0).history
    assert float(model.loss_metric.result()) == pytest.approx(history["loss"][0])


@pytest.mark.multi_device
def test_keras_calls_what_is_overridden(two_replicas):
    called = []

    class Watched(Small):
        def _get_metrics_result_or_logs(self, logs):
            called.append("results")
            return super()._get_metrics_result_or_logs(logs)

        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            called.append("build")
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

        def _make_function(self, step_function):
            called.append("function")
            return super()._make_function(step_function)

    with two_replicas.scope():
        model = compiled(Watched())
    logs = model.fit(IMAGES, LABELS, verbose=0).history
    assert set(called) == {"results", "build", "function"}
    assert set(logs) == {"loss", "sparse_categorical_accuracy"}


def test_nothing_else_touches_what_is_private():
    """Of an object that is not the module's own: a name with one leading underscore after a dot."""
    package = pathlib.Path(keras_robust.__file__).parent
    found = [
        f"{path.relative_to(package)}:{number}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if path.name != "keras_private.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if PRIVATE.search(line.split("  #")[0])
    ]
    assert not found, "\n".join(found)


def test_the_graph_of_a_model_has_all_calls_and_its_outputs():
    inputs = keras.Input((3,))
    shared = keras.layers.Dense(3)
    hidden = shared(inputs)
    outputs = shared(keras.layers.ReLU()(hidden))
    graph = graph_of(keras.Model(inputs, outputs))
    assert sorted(type(operation).__name__ for operation, _, _ in graph) == ["Dense", "Dense", "NoneType", "ReLU"]
    (relu,) = (call for call in graph if isinstance(call[0], keras.layers.ReLU))
    assert [id(tensor) for tensor in relu[1]] == [id(hidden)]
    assert [id(tensor) for tensor in graph[-1][1]] == [id(outputs)]
    assert len(graph_of(keras.Sequential([keras.Input((3,)), shared, keras.layers.ReLU()]))) == 3
    assert graph_of(Doubling()) == graph_of(keras.Sequential([shared])) == []


@pytest.mark.xla
def test_tracing_for_xla_is_known_in_functions_inside_of_it():
    found = []

    def note(x):
        found.append(traced_for_xla())
        return x

    inner = tf.function(note)
    note(0)
    tf.function(inner)(tf.constant(0))
    tf.function(tf.function(note), jit_compile=True)(tf.constant(0))
    tf.function(lambda x: tf.while_loop(lambda x: x < 1, lambda x: note(x + 1), [x]), jit_compile=True)(tf.constant(0))
    assert found == [False, False, True, True]

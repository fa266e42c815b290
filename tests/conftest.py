"""Two logical CPU devices, a strategy over them, and classifiers small enough to be computed by hand."""

import contextlib
import gc
import io
import logging
import os
import pathlib
import resource
import runpy
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import absl.logging
import hypothesis
import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from absl import flags
from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.framework import ops

from keras_robust import data
from keras_robust.distribution import create_strategy
from keras_robust.training import command_line

ROOT = pathlib.Path(__file__).parents[1]
GRADIENTS = ops.gradient_registry._registry
"""TensorFlow's registry of gradient functions, by name."""


def pytest_configure(config: pytest.Config) -> None:
    """Makes two CPU devices, before TensorFlow starts, and lets pass what only Keras could change."""
    # Keras 3.15 copies tf.Variables with np.array(x), for which TensorFlow's __array__ has no `copy` keyword (NumPy 2).
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    )
    # The functions of tf.data are traced all the same.
    config.addinivalue_line("filterwarnings", "ignore:Even though the `tf.config.experimental_run_functions_eagerly`")
    hypothesis.settings.register_profile("no clock", deadline=None)  # a slow machine is no fault
    hypothesis.settings.load_profile("no clock")
    # Filtering the tracebacks of every operation takes a tenth of the time of eager tests, and hides where they failed.
    keras.config.disable_traceback_filtering()
    tf.debugging.disable_traceback_filtering()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_collection_finish() -> None:
    """Lets the garbage collector run less often, and never look at what was imported."""
    gc.set_threshold(50_000)
    gc.collect()
    gc.freeze()


STARTED = time.monotonic()
SECONDS = float(os.environ.get("KERAS_ROBUST_TEST_SECONDS") or "inf")
"""Tests that have not begun after so many seconds are skipped."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what would begin too late, and what needs data that no environment variable names."""
    variables = {name for marker in item.iter_markers("shared_data") for name in marker.args}
    if missing := variables - set(os.environ):
        pytest.skip(f"set {' and '.join(sorted(missing))}: see CONTRIBUTING.md")
    if time.monotonic() - STARTED > SECONDS:
        pytest.skip(f"KERAS_ROBUST_TEST_SECONDS={SECONDS:g} are over")


MOST_MEMORY = 2.0
"""GiB that a process of the tests should stay below."""

PEAKS = pytest.StashKey[list[float]]()
"""GiB that each process took at most."""


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Notes what a process of pytest-xdist says about its memory at its end."""
    node.config.stash.setdefault(PEAKS, []).append(node.workeroutput.get("peak", 0.0))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Notes how much memory this process took."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = peak
        return
    peaks = session.config.stash.setdefault(PEAKS, [])
    peaks.append(peak)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints how much memory the processes took."""
    peaks = sorted(config.stash[PEAKS], reverse=True)
    verdict = f", more than the {MOST_MEMORY:g} that a test process should take" if peaks[0] > MOST_MEMORY else ""
    terminalreporter.write_line(f"Peak memory in GiB: {', '.join(f'{peak:.1f}' for peak in peaks)}{verdict}")


@pytest.fixture(scope="module", autouse=True)
def free_memory() -> Iterator[None]:
    """Frees the models and graphs of a file after its last test.

    `tf.custom_gradient` keeps the graph of each use for good: all_reduce in every training step of Keras is a use.
    """
    yield
    for name in [name for name in GRADIENTS if name.startswith("CustomGradient")]:
        del GRADIENTS[name]
    keras.backend.clear_session(free_memory=True)


@pytest.fixture(autouse=True)
def eager(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs every `tf.function` eagerly, which spares tracing, except in tests marked `graph`, `xla` or `slow`.

    The functions of tf.data are then traced without AutoGraph, which takes longer than the tracing.
    """
    if any(request.node.get_closest_marker(name) for name in ("graph", "xla", "slow")):
        yield
        return
    tf.config.run_functions_eagerly(True)
    with ag_ctx.ControlStatusCtx(ag_ctx.Status.DISABLED):
        yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def two_replicas() -> tf.distribute.Strategy:
    """A `MirroredStrategy` over two logical CPU devices."""
    return create_strategy("mirrored")


@pytest.fixture
def linear_classifier() -> Callable[..., keras.Model]:
    """Makes softmax regression: logits = flatten(x) @ w + b."""

    def make(classes: int = 3, shape: tuple[int, ...] = (4, 4, 1), seed: int = 0) -> keras.Model:
        rng = np.random.default_rng(seed)
        model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)])
        size = int(np.prod(shape))
        model.set_weights([rng.normal(size=(size, classes)), rng.normal(size=classes)])
        return model

    return make


@pytest.fixture
def conv_classifier() -> Callable[..., keras.Model]:
    """Makes a convolution, batch normalisation where asked for, global pooling and logits."""

    def make(classes: int = 3, batch_norm: bool = False, seed: int = 0) -> keras.Model:
        initializer = keras.initializers.GlorotUniform
        layers = [keras.Input((8, 8, 1))]
        layers.append(keras.layers.Conv2D(4, 3, 2, activation="relu", kernel_initializer=initializer(seed)))
        if batch_norm:
            layers.append(keras.layers.BatchNormalization(momentum=0.9))
        layers.append(keras.layers.Flatten())
        layers.append(keras.layers.Dense(classes, kernel_initializer=initializer(seed + 1)))
        return keras.Sequential(layers)

    return make


@pytest.fixture
def batch() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Draws float32 images in [0, 1] and sparse labels."""

    def draw(
        count: int = 8, shape: tuple[int, ...] = (8, 8, 1), classes: int = 3, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        return rng.uniform(size=(count, *shape)).astype("float32"), rng.integers(0, classes, count)

    return draw


@pytest.fixture
def float64() -> Iterator[None]:
    """Classifiers, training and arrays passed to it are in float64 during the test."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")  # it follows floatx only until the first layer is made
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


Launch = Callable[..., subprocess.CompletedProcess[str]]


def belongs_to_every_script(flag: str) -> bool:
    """Whether a flag is of a library or of what all scripts share. Flags of benchmarks that a test imports are not."""
    module = flags.FLAGS.find_module_defining_flag(flag) or ""
    libraries = ("absl", "etils", "ml_collections", "tensorflow", "tensorflow_datasets")
    return module == command_line.__name__ or module.partition(".")[0] in libraries


@contextlib.contextmanager
def flags_of_one_script() -> Iterator[None]:
    """Hides the flags of other scripts, and forgets at its end those that a script has defined."""
    others = {name: flags.FLAGS[name] for name in flags.FLAGS if not belongs_to_every_script(name)}
    for name in others:
        delattr(flags.FLAGS, name)
    before = set(flags.FLAGS)
    try:
        yield
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        for name, flag in others.items():
            flags.FLAGS[name] = flag
        flags.FLAGS.unparse_flags()


@pytest.fixture
def new_flags() -> Iterator[None]:
    """Forgets the flags that a test has defined."""
    with flags_of_one_script():
        yield


@pytest.fixture(scope="session")
def launch() -> Launch:
    """Runs a launch script in this process: `launch(script, *arguments)` gives its exit code and what it printed."""

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        output, errors, exit_code = io.StringIO(), io.StringIO(), 0
        level, handlers = logging.root.level, list(logging.root.handlers)
        verbosity, argv = absl.logging.get_verbosity(), sys.argv
        try:
            sys.argv = [f"launch/{script}.py", *arguments]
            with (
                flags_of_one_script(),
                contextlib.chdir(ROOT),
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(errors),
                warnings.catch_warnings(action="ignore"),
            ):
                # Python makes the path of a script absolute, too.
                runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):  # Python would print it
                errors.write(end.code)
            exit_code = 1 if isinstance(end.code, str) else end.code or 0
        finally:
            sys.argv = argv
            absl.logging.set_verbosity(verbosity)
            logging.root.handlers[:] = handlers
            logging.root.setLevel(level)
        return subprocess.CompletedProcess(argv, exit_code, output.getvalue(), errors.getvalue())

    return run


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder in which `mnist_small` is prepared: no test touches the user's folder of data sets."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    data.describe("mnist_small", "train", data_dir=folder)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Images of differing size: 24 in train, 9 in test, a third each of the classes 0 cat, 1 dog and 2 emu.

    In each split, image number k is of class k % 3. Red is the column and green the row of a pixel; blue is 10 k.
    """
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 24), ("test", 9)):
        for number in range(count):
            height, width = 20 + 7 * number % 41, 20 + 11 * number % 37
            rows, columns = np.mgrid[:height, :width]
            pixels = np.stack([columns, rows, np.full_like(rows, 10 * number)], axis=2).astype(np.uint8)
            folder = root / split / ("cat", "dog", "emu")[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            suffix, options = [("png", {}), ("jpg", {"quality": 100, "subsampling": 0})][number % 2]
            PIL.Image.fromarray(pixels).save(folder / f"{number}.{suffix}", **options)
    return root


@pytest.fixture
def tensorflow_warnings() -> Iterator[list[str]]:
    """The warnings that TensorFlow logs during a test, but those of Keras's own functions, which many models cause."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.addFilter(lambda record: "TensorFlowTrainer" not in record.getMessage())
    handler.emit = lambda record: messages.append(record.getMessage())
    tf.get_logger().addHandler(handler)
    yield messages
    tf.get_logger().removeHandler(handler)

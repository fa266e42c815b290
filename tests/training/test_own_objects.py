"""Networks, data and other parts of a run that are the user's own: by path in a config, or as objects."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import own_objects
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.distribution import Crafter
from keras_robust.distribution.crafter import recipe
from keras_robust.tools import planning
from keras_robust.training import build
from keras_robust.training.config import resolve
from keras_robust.training.preemption import Preempted

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent
CONFIG = {
    "config_format": 1,
    "dataset": "own_objects:squares",
    "train_split": "40",
    "validation_split": "20",
    "classifier": {"name": "own_objects:MyNet", "width": 6},
    "method": {"name": "own_objects:MyMethod", "clean_fraction": 0.5},
    "attack": {"name": "own_objects:MyAttack", "epsilon": 0.1, "steps": 1},
    "validation_attack": {"name": "fgsm", "epsilon": 0.1},
    "optimizer": {"name": "own_objects:MyOptimizer", "learning_rate": {"name": "own_objects:halves", "peak": 0.2}},
    "batch_size": 8,
    "epochs": 2,
}
FILE = f"""
import ml_collections

def get_config():
    return ml_collections.ConfigDict({CONFIG})
"""
# CSVLogger closes its file only at the regular end of a run.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class SigtermAt(keras.callbacks.Callback):
    """As a machine that is taken away after a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.steps_taken.numpy()) == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def launch(script, *arguments):
    """Runs a launch script in a process that has not seen `own_objects` yet."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
    command = [sys.executable, str(ROOT / "launch" / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the user's own network that was preempted in the middle of an epoch, and went on in another process."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "config.py").write_text(FILE)
    with pytest.raises(Preempted, match="SIGTERM at step 3"):
        kr.training.train(CONFIG, folder / "run", callbacks=[SigtermAt(2)], verbose=0)
    resumed = launch("train.py", f"--config={folder / 'config.py'}", f"--workdir={folder / 'run'}")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    return folder / "run"


def test_it_was_trained_to_its_end_as_one_run(run):
    model = keras.models.load_model(run / "last.keras")
    assert int(model.steps_taken.numpy()) == 10
    assert len((run / "history.csv").read_text().splitlines()) == 3
    assert [type(part) for part in (model, model.classifier, model.attack, model.optimizer)] == [
        *(own_objects.MyMethod, own_objects.MyNet, own_objects.MyAttack, own_objects.MyOptimizer)
    ]
    whole = kr.training.train(CONFIG, run.with_name("whole"), verbose=0)
    for part, expected in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-5)


def test_it_is_evaluated(run):
    images, labels = next(iter(kr.data.evaluation_batches(own_objects.squares, "20", batch_size=20)))
    report = kr.evaluate(str(run / "best.keras"), (images, labels), kr.attacks.FGSM(kr.Linf(0.1)), verbose=False)
    assert report.record["training"]["config"]["classifier"] == CONFIG["classifier"]
    assert report.robust_accuracy <= report.clean_accuracy


def test_it_is_exported(run, tmp_path):
    """A script must be told which module registers the network."""
    arguments = [f"--model={run / 'best.keras'}", f"--output={tmp_path / 'export'}"]
    refused = launch("export.py", *arguments)
    assert re.search(
        r"the file contains the class '\w+', which Keras does not know. Use --import=MODULE", refused.stderr
    )
    exported = launch("export.py", *arguments, "--import=own_objects")
    assert exported.returncode == 0, exported.stderr[-3000:]
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    served = tf.saved_model.load(str(tmp_path / "export"))
    logits = served.serve(images)
    expected = keras.models.load_model(run / "best.keras").classifier(images)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.graph
def test_it_is_planned(tmp_path):
    """Of a subclass of `keras.Model` it must be known which images it takes."""
    planned = CONFIG | {"classifier": {"name": "own_objects:my_net_for_plans", "width": 6}}
    assert planning.plan(planned, "1xH100").parameters == 9 * 6 + 6 + 6 * 10 + 10
    assert planning.plan(planned, f"{os.cpu_count()}xcpu").steps_per_epoch == 5
    with pytest.raises(ValueError, match=r"images of one size, as by network\(keras\.Input\(\(32, 32, 3\)\)\)"):
        planning.plan(CONFIG, "1xH100")
    (tmp_path / "config.py").write_text(FILE.replace("own_objects:MyNet", "own_objects:my_net_for_plans"))
    printed = launch("plan.py", f"--config={tmp_path / 'config.py'}", "--accelerators=1xH100")
    assert printed.returncode == 0, printed.stderr[-3000:]
    assert re.search(r"MyMethod of my_net\w* on 1 x H100", printed.stdout), printed.stdout


def test_workers_attack_for_it(batch):
    """Another process gets what the network needs from its module."""
    model = build.build_model(resolve(CONFIG), 5, 10)
    model.classifier(tf.zeros((1, 8, 8, 1)))
    parts = recipe(model)
    assert set(parts["custom_objects"]) >= {"own_objects>MyNet", "own_objects>MyMethod", "own_objects>MyAttack"}
    crafter = Crafter(**parts)
    crafter.set_weights(model.get_weights(), 0)
    images, labels = batch()
    assert crafter.craft(0, images, labels)[0].shape == images.shape


class TestObjects:
    """Instead of names."""

    def test_a_model_and_a_function(self, tmp_path):
        """The record of the run says what they were; the network goes on with the weights that it had."""
        network = own_objects.my_net_for_plans()
        before = [weight.copy() for weight in network.get_weights()]
        config = CONFIG | {"classifier": "lenet", "optimizer": {"name": "sgd", "learning_rate": 0.0}}
        objects = {"classifier": network, "data": own_objects.squares}
        model = kr.training.train(config, tmp_path / "run", **objects, verbose=0)
        for weight, old in zip(model.classifier.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, old)
        written = json.loads((tmp_path / "run" / "config.json").read_text())
        assert written["classifier"] == {"object": "own_objects:MyNet"}
        assert written["dataset"] == {"object": "own_objects:squares"}
        kr.training.train(config, tmp_path / "run", **objects, verbose=0)  # nothing is left to do
        with pytest.raises(ValueError, match="belongs to a run with another config"):
            kr.training.train(config, tmp_path / "run", verbose=0)

    @pytest.mark.multi_device
    def test_several_devices_take_a_function(self, tmp_path):
        with pytest.raises(ValueError, match=r"give a function that makes it"):
            kr.training.train(CONFIG, tmp_path, strategy="mirrored", classifier=own_objects.my_net_for_plans())
        model = kr.training.train(CONFIG, tmp_path, strategy="mirrored", classifier=own_objects.MyNet, verbose=0)
        assert int(model.steps_taken.numpy()) == 10

    @pytest.mark.parametrize("given", [3, own_objects.nothing, keras.layers.Dense(3)])
    def test_no_model(self, tmp_path, given):
        with pytest.raises(ValueError, match=r"classifier must be a keras\.Model from images to logits, or a function"):
            kr.training.train(CONFIG, tmp_path, classifier=given)

    def test_a_config_that_was_written_asks_for_its_objects(self, tmp_path):
        with pytest.raises(ValueError, match="was given to `train` as an object: give it again"):
            kr.training.train(CONFIG | {"classifier": {"object": "own_objects:MyNet"}}, tmp_path)
        with pytest.raises(ValueError, match="Pass a function itself to `train` as `data`"):
            kr.training.train(CONFIG | {"dataset": {"object": "own_objects:squares"}}, tmp_path)


def test_a_class_that_keras_does_not_know_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"register_keras_serializable.*class 'NotRegistered' is not"):
        kr.training.train(CONFIG | {"classifier": "own_objects:NotRegistered"}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


MISTAKES = {
    "no such module": ("own_nothing:MyNet", r"The module 'own_nothing' cannot be imported: .*PYTHONPATH"),
    "no such name": ("own_objects:MyNett", r"has no 'MyNett': did you mean 'MyNet'\?"),
    "no colon": ("own_objects.MyNet", r"Did you mean 'own_objects:MyNet'\? Received: classifier='own_objects.MyNet'"),
    "no class": ("own_objects:a_number", "must name a class or a function .*of type int"),
    "a model": ("own_objects:a_network", "must name a class or a function .*of type MyNet"),
    "nothing made": ("own_objects:nothing", "must make a keras.Model from images to logits. Received: None"),
    "unknown": ("lenet6", r"classifier must be one of \[.*\], or a path such as 'my_package.networks:MyNet'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_a_path_are_named(mistake):
    section, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        build.build_classifier({"name": section} if isinstance(section, str) else section)


def test_an_option_that_a_function_does_not_have():
    with pytest.raises(ValueError, match=r"does not take its arguments: .*'wide'.* Its signature is \(width=4\)"):
        build.build_classifier({"name": "own_objects:my_net_for_plans", "wide": 3})


DATA_MISTAKES = {
    "own_objects:no_length": r"\.apply\(tf\.data\.experimental\.assert_cardinality\(COUNT\)\).*of cardinality unknown",
    "own_objects:batched": r"Leave out \.batch\(\)",
    "own_objects:doubled": r"uint8 in \[0, 255\] or float32 in \[0, 1\]",
    "own_objects:nothing": "must return a tf.data.Dataset of .image, label.. Received: own_objects:nothing.*NoneType",
    "own_objects:absent": "has no 'absent'",
}


@pytest.mark.parametrize("name", DATA_MISTAKES)
def test_mistakes_in_a_data_set_are_named(name):
    with pytest.raises(ValueError, match=DATA_MISTAKES[name]):
        kr.data.describe(name, "20")


def test_a_data_set_of_numbers_has_no_one_hot_labels(tmp_path):
    with pytest.raises(ValueError, match=r"need one-hot labels\. Return these from the function of the data set"):
        kr.training.train(CONFIG | {"label_smoothing": 0.1}, tmp_path)


def test_a_data_set_is_shuffled_and_changed_as_any_other():
    """Each epoch has all examples; windows are cut from the images, and one-hot labels stay."""

    def one_hot(split):
        return own_objects.squares(split).map(lambda image, label: (image, tf.one_hot(label, 10)))

    options = {"batch_size": 10, "seed": 1, "one_hot": True}
    batches = kr.data.training_batches(one_hot, "20", **options, augmentation="inception_crop", image_size=6)
    images, labels = zip(*batches.take(2), strict=True)
    assert images[0].shape == (10, 6, 6, 1)
    np.testing.assert_array_equal(np.sum(np.concatenate(labels), axis=0), np.full(10, 2.0))

    def floats(split):
        return own_objects.squares(split, "float32")

    images, _ = next(iter(kr.data.training_batches(floats, "20", batch_size=10, seed=0)))
    assert float(tf.reduce_max(images)) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="needs uint8 images"):
        kr.data.training_batches(floats, "20", batch_size=10, seed=0, augmentation="flip_and_crop")

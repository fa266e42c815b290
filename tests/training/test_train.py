"""Training runs in their workdirs: what is written, going on, and what is refused."""

import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from tiny_run import TINY

import keras_robust as kr
from keras_robust.core import execution
from keras_robust.training.callbacks import SaveModels
from keras_robust.training.config import resolve
from keras_robust.training.run import Run
from keras_robust.training.workdir import Workdir

CONFIG = TINY | {
    "method": {"name": "adversarial_training"},
    "attack": {"name": "pgd", "epsilon": 0.3, "steps": 1},
    "validation_attack": {"name": "fgsm", "epsilon": 0.3},
    "optimizer": {"name": "adam", "learning_rate": {"name": "one_cycle", "peak": 1e-3}},
    "epochs": 2,
}


# CSVLogger closes its file only at the regular end of a run.
INTERRUPTED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def train(config, workdir, data_dir, **kwargs):
    return kr.training.train(config, workdir, data_dir=data_dir, verbose=0, **kwargs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("run")
    return train(CONFIG, workdir, data_dir), workdir


def test_a_run_leaves_models_history_and_config(finished):
    model, workdir = finished
    assert {path.name for path in workdir.iterdir()} == {
        "config.json",
        "history.csv",
        "tensorboard",
        "best.keras",
        "last.keras",
    }
    assert json.loads((workdir / "config.json").read_text())["attack"] == CONFIG["attack"]
    history = (workdir / "history.csv").read_text().splitlines()
    assert history[0] == "epoch,loss,robust_accuracy,val_accuracy,val_loss,val_robust_accuracy"
    assert [row.split(",")[0] for row in history[1:]] == ["0", "1"]
    loaded = keras.models.load_model(workdir / "last.keras")
    assert int(loaded.steps_taken.numpy()) == 6
    for saved, trained in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(saved, trained)


@pytest.mark.parametrize("pays", [False, True])
def test_the_dtype_that_the_machine_has_chosen_is_printed(pays, tmp_path, data_dir, monkeypatch, capsys):
    monkeypatch.setattr(execution, "bfloat16_pays", lambda: pays)
    config = CONFIG | {"epochs": 1, "attack": CONFIG["attack"] | {"compute_dtype": "auto"}}
    kr.training.train(config, tmp_path / "run", data_dir=data_dir, verbose=2)
    chosen = "bfloat16" if pays else "float32"
    line = f"With compute_dtype='auto' this machine attacks in {chosen}: PGD-1 (Linf 0.3, step 0.75, {chosen})\n"
    assert capsys.readouterr().out.count(line) == 1


def test_a_finished_run_is_not_trained_again(finished, data_dir):
    model, workdir = finished
    history = (workdir / "history.csv").read_text()
    again = train(CONFIG, workdir, data_dir)
    for first, second in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (workdir / "history.csv").read_text() == history


def test_a_workdir_of_another_config_is_refused(finished, data_dir):
    _, workdir = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    with pytest.raises(ValueError, match="epochs: 2 there, 3 now"):
        train({**CONFIG, "epochs": 3}, workdir, data_dir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


@INTERRUPTED
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(finished, tmp_path, data_dir, monkeypatch):
    """The first epoch ends with its model saved; the second is logged, and killed before its model is saved."""
    _, complete = finished

    def die(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        saving(self, epoch, logs)

    saving = SaveModels.on_epoch_end
    monkeypatch.setattr(SaveModels, "on_epoch_end", die)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path, data_dir)
    monkeypatch.undo()
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3
    resumed = train(CONFIG, tmp_path, data_dir)
    assert int(resumed.steps_taken.numpy()) == 6
    np.testing.assert_allclose(
        np.loadtxt(tmp_path / "history.csv", delimiter=",", skiprows=1),
        np.loadtxt(complete / "history.csv", delimiter=",", skiprows=1),
        atol=1e-4,
    )
    for part, whole in zip(resumed.get_weights(), finished[0].get_weights(), strict=True):
        np.testing.assert_allclose(part, whole, atol=1e-4)


def test_training_stops_without_progress_and_stays_stopped(tmp_path, data_dir):
    """With a learning rate of 0 the second epoch is no better; started again, nothing happens."""
    optimizer = {"name": "sgd", "learning_rate": 0.0}
    config = {**CONFIG, "optimizer": optimizer, "epochs": 5, "early_stopping_patience": 2}
    assert int(train(config, tmp_path, data_dir).steps_taken.numpy()) == 9
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 4
    assert int(train(config, tmp_path, data_dir).steps_taken.numpy()) == 9


def test_an_epoch_that_was_lost_does_not_count_as_one_without_progress(tmp_path, data_dir, monkeypatch):
    """Its row is in the history, but the model is that of the epoch before: the run goes on."""
    fits = []
    model = types.SimpleNamespace(steps_taken=tf.Variable(3))
    monkeypatch.setattr(Run, "load_or_build", lambda self: model)
    monkeypatch.setattr(Run, "fit", lambda self, *args, **options: fits.append(args))
    config = {**CONFIG, "early_stopping_patience": 1}
    Workdir(epath.Path(tmp_path)).start(resolve(config))
    (tmp_path / "history.csv").write_text("epoch,val_robust_accuracy\n0,0.5\n1,0.5\n")
    train(config, tmp_path, data_dir)
    assert len(fits) == 1
    assert (tmp_path / "history.csv").read_text() == "epoch,val_robust_accuracy\n0,0.5\n"


@pytest.mark.filterwarnings("ignore:All 2 epochs train")
def test_the_last_epochs_have_frozen_statistics(tmp_path, data_dir):
    """Frozen in both epochs, the averages are as they were made: zeros and ones."""
    classifier = {"name": "lenet", "normalization": "batch"}
    model = train({**CONFIG, "classifier": classifier, "freeze_batch_statistics_epochs": 2}, tmp_path, data_dir)
    averages = {v.path: np.asarray(v) for v in model.classifier.variables if "moving" in v.path}
    assert len(averages) == 4
    for path, values in averages.items():
        np.testing.assert_array_equal(values, float("variance" in path))


REFUSED = {
    "misspelt field": ({"atack": {}}, {}, "atack"),
    "unknown method": ({"method": {"name": "alp"}}, {}, "alp"),
    "epsilon": ({"attack": {"name": "pgd", "epsilon": -0.1}}, {}, "epsilon=-0.1"),
    "data set that is missing": ({"dataset": "cifar10"}, {}, "cifar10"),
    "empty split": ({"train_split": "train[:0]"}, {}, r"train\[:0\]"),
    "batch size and replicas": ({"batch_size": 31}, {"strategy": "mirrored"}, "batch_size=31, replicas=2"),
    "strategy": ({}, {"strategy": "multi"}, "strategy='multi'"),
    "less than a batch": ({"train_split": "train[:31]"}, {}, "at most 31.*batch_size=32"),
    "steps of an execution": (
        {"steps_per_epoch": 5, "steps_per_execution": 2},
        {},
        "steps_per_epoch=5, steps_per_execution=2",
    ),
    "steps of a pass": ({"steps_per_execution": 4}, {}, "at most 3.*steps_per_execution=4"),
    "image shape": ({"classifier": {"name": "resnet20"}, "image_size": 0}, {}, r"\(28, 28, 1\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_written_before_the_checks_pass(name, tmp_path, data_dir):
    change, options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        train({**CONFIG, **change}, tmp_path / "run", data_dir, **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused(tmp_path, data_dir):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="new, empty, or the folder of a run"):
        train(CONFIG, tmp_path, data_dir)


def test_a_run_reads_the_stream_of_its_config(tmp_path, data_dir):
    """From the step that it goes on at; label smoothing needs one-hot labels."""
    options = {"augmentation": "flip_and_crop", "batch_size": 24, "image_size": 8, "seed": 7}
    config = resolve({**CONFIG, **options, "label_smoothing": 0.1})
    run = Run(config, Workdir(tmp_path), tf.distribute.get_strategy(), data_dir, None, None, None, 4, (8, 8, 1))
    expected = kr.data.training_batches(
        "mnist_small", "train[:96]", start_step=3, one_hot=True, data_dir=data_dir, **options
    )
    for got, wanted in zip(run._training_data(3).take(3), expected.take(3), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, got, wanted)


def test_an_epoch_is_whole_executions(tmp_path):
    """`fit` runs the last one to its end: of the 7 batches of a pass an epoch has 6, in two."""
    config = {"steps_per_epoch": 0, "steps_per_execution": 3}
    assert Run(config, Workdir(tmp_path), tf.distribute.get_strategy(), *[None] * 4, 7, (8, 8, 1)).steps_per_epoch == 6


@INTERRUPTED
@pytest.mark.parametrize("checkpoint_steps", [0, 1])
def test_weights_that_are_not_finite_end_the_run(tmp_path, data_dir, checkpoint_steps):
    """They are not saved, in the middle of an epoch either: the loss of the first step was finite."""
    diverging = {**CONFIG, "optimizer": {"name": "sgd", "learning_rate": 1e39}}  # infinite in float32
    with pytest.raises(FloatingPointError, match=r"NaN or infinity (at|in \d steps? up to) step \d"):
        train(diverging, tmp_path, data_dir, checkpoint_steps=checkpoint_steps)
    assert not (tmp_path / "last.keras").exists()


def test_the_best_model_has_the_highest_robust_validation_accuracy(tmp_path):
    workdir = Workdir(tmp_path)
    callback = SaveModels(workdir, "val_robust_accuracy", 0.3)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    callback.set_model(model)
    for epoch, value in enumerate([0.2, 0.5, 0.4]):
        model.set_weights([np.array([[epoch]])])
        callback.on_epoch_end(epoch, {"val_robust_accuracy": value})
        assert workdir.best.exists() == (epoch > 0)
    assert keras.models.load_model(workdir.best).get_weights()[0] == 1
    assert keras.models.load_model(workdir.last).get_weights()[0] == 2
    assert not list(tmp_path.glob("*partial*"))


def test_best_value_and_lost_rows(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.drop_lost_rows(0)
    assert workdir.best_value("a") is None
    workdir.history.write_text("epoch,a\n0,0.5\n1,0.7\n2,0.9\n")
    workdir.drop_lost_rows(2)
    assert workdir.history.read_text() == "epoch,a\n0,0.5\n1,0.7\n"
    assert workdir.best_value("a") == 0.7
    workdir.drop_lost_rows(0)
    assert workdir.best_value("a") is None


@pytest.mark.parametrize(
    ("written", "epochs", "kept"),
    [
        ("epoch,a,b\n0,0.5,0.1\n1,0.", 1, "epoch,a,b\n0,0.5,0.1\n"),
        ("epoch,a,b\n0,0.5,0.1\n1,0.", 2, "epoch,a,b\n0,0.5,0.1\n"),
        ("epoch,a,", 0, ""),
    ],
)
def test_a_row_that_was_not_written_to_its_end_is_dropped(tmp_path, written, epochs, kept):
    """Whether its epoch is lost or not; a header, too, which is then written again."""
    workdir = Workdir(tmp_path)
    workdir.history.write_text(written)
    workdir.drop_lost_rows(epochs)
    assert workdir.history.read_text() == kept
    assert workdir.best_value("a") == (0.5 if kept else None)


@pytest.mark.multi_device
def test_training_under_a_mirrored_strategy(tmp_path, data_dir):
    model = train({**CONFIG, "epochs": 1}, tmp_path, data_dir, strategy="mirrored")
    assert int(model.steps_taken.numpy()) == 3

"""A run that averages its weights trains as it would without, and is validated and kept with the averages."""

import csv

import keras
import numpy as np
import pytest
from etils import epath
from tiny_run import TINY

import keras_robust as kr
from keras_robust.methods.weight_averages import averaged_weights
from keras_robust.training.callbacks import SaveModels
from keras_robust.training.config import resolve
from keras_robust.training.run import Run
from keras_robust.training.workdir import Workdir

MOMENTUM = 0.5
SGD = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9}
CONFIG = TINY | {"method": {"name": "natural_training"}, "optimizer": SGD, "epochs": 1}
EMA = CONFIG | {"optimizer": SGD | {"use_ema": True, "ema_momentum": MOMENTUM}}


def train(config, workdir, data_dir):
    return kr.training.train(config, workdir, data_dir=data_dir, verbose=0)


def weights_of(path):
    return keras.models.load_model(path).classifier.get_weights()


def assert_same(weights, others, **tolerance):
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(one, other, **{"rtol": 0, **tolerance})


def test_the_best_model_has_the_averages_and_the_last_the_weights(tmp_path, data_dir):
    model = train(EMA, tmp_path / "averaged", data_dir)
    by_steps = []
    for steps in (1, 2, 3):
        train(CONFIG | {"steps_per_epoch": steps}, tmp_path / str(steps), data_dir)
        by_steps.append(weights_of(tmp_path / str(steps) / "last.keras"))
    assert_same(weights_of(tmp_path / "averaged" / "last.keras"), by_steps[-1], atol=1e-6)
    average = by_steps[0]
    for weights in by_steps[1:]:
        average = [MOMENTUM * a + (1 - MOMENTUM) * w for a, w in zip(average, weights, strict=True)]
    assert_same(weights_of(tmp_path / "averaged" / "best.keras"), average, atol=1e-6)
    assert_same(model.classifier.get_weights(), average, atol=1e-6)


def test_validation_is_of_the_averages(tmp_path, data_dir):
    train(EMA, tmp_path, data_dir)
    with (tmp_path / "history.csv").open() as file:
        logged = float(list(csv.DictReader(file))[-1]["val_loss"])
    digits = kr.data.evaluation_batches("mnist_small", "train[96:160]", batch_size=32, image_size=8, data_dir=data_dir)
    models = [keras.models.load_model(tmp_path / name) for name in ("best.keras", "last.keras")]
    losses = [model.evaluate(digits, verbose=0)[0] for model in models]
    assert logged == pytest.approx(losses[0], rel=1e-5) != pytest.approx(losses[1], rel=1e-5)


# CSVLogger closes its file only at the regular end of a run.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_that_goes_on_ends_as_one_in_one_go(tmp_path, data_dir, monkeypatch):
    def die(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        saving(self, epoch, logs)

    config = EMA | {"epochs": 2}
    whole = train(config, tmp_path / "whole", data_dir)
    saving = SaveModels.on_epoch_end
    monkeypatch.setattr(SaveModels, "on_epoch_end", die)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", data_dir)
    monkeypatch.undo()
    resumed = train(config, tmp_path / "parts", data_dir)
    assert_same(resumed.classifier.get_weights(), whole.classifier.get_weights(), atol=1e-5)
    last_models = (tmp_path / name / "last.keras" for name in ("parts", "whole"))
    assert_same(*map(weights_of, last_models), atol=1e-5)


def test_a_run_that_stopped_early_is_returned_with_the_averages(tmp_path, data_dir, monkeypatch):
    """Started again it has nothing to do: `fit`, which leaves averages, is not called."""
    model = small_model(use_ema=True)
    model.steps_taken.assign(6)
    with averaged_weights(model):
        averages = model.classifier.get_weights()
    monkeypatch.setattr(Run, "load_or_build", lambda self: model)
    config = EMA | {"epochs": 5, "early_stopping_patience": 1}
    Workdir(epath.Path(tmp_path)).start(resolve(config))
    (tmp_path / "history.csv").write_text("epoch,val_accuracy\n0,0.5\n1,0.5\n")
    assert_same(train(config, tmp_path, data_dir).classifier.get_weights(), averages)


def small_model(use_ema):
    """Returns a model after two steps."""
    classifier = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)])
    model = kr.NaturalTraining(classifier)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, use_ema=use_ema), loss)
    for value in (0.5, 1.0):
        model.train_on_batch(np.full((2, 2), value, "float32"), np.array([0, 0]))
    return model


@pytest.mark.parametrize("use_ema", [False, True])
def test_weights_and_statistics_come_back(use_ema):
    model = small_model(use_ema)
    before = model.classifier.get_weights()
    with averaged_weights(model):
        inside = model.classifier.get_weights()
    for index in (1, 2):  # offset and moving mean
        assert np.array_equal(inside[index], before[index]) != use_ema
    assert_same(model.classifier.get_weights(), before)

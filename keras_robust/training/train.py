"""One call from config to trained model, which goes on where an earlier call stopped."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_robust.data import check_batch_size, describe, evaluation_batches, training_batches
from keras_robust.distribution import AttackedBatches, create_strategy
from keras_robust.methods import FreezeBatchStatistics, RobustModel
from keras_robust.training.averaging import ValidateAverages
from keras_robust.training.build import build_model, needs_one_hot_labels
from keras_robust.training.callbacks import SaveModels, StartWorkdir, StopAtNaN, StopWithoutProgress
from keras_robust.training.config import resolve
from keras_robust.training.workdir import Workdir

Generation = Callable[..., contextlib.AbstractContextManager[AttackedBatches]]
"""From a model, its clean batches and `steps_per_epoch`: see `asynchronous_generation`."""


def train(
    config: Mapping[str, Any],
    workdir: str | pathlib.Path,
    *,
    data_dir: str | None = None,
    download: bool = False,
    strategy: str = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    generation: Generation | None = None,
    verbose: str | int = "auto",
) -> RobustModel:
    """Trains the model of a config in `workdir`, or goes on with the run that is there.

    The batches, the random starts and the weights are functions of the config alone: a run that was killed and started
    again sees what it would have seen. With `config.deterministic` it ends with the same weights, bit for bit.

    Args:
        config: see `training.config`.
        workdir: folder of the run; see `training.workdir`.
        data_dir: where TFDS keeps its data sets; None is its default.
        download: let TFDS download a data set that is missing.
        strategy: see `create_strategy`.
        callbacks: further ones for `fit`, after those of the run.
        generation: who attacks the batches: see `train_async`. None lets the training step do it.
        verbose: as in `keras.Model.fit`.

    Returns:
        The model after the last epoch; with averaged weights, where the optimizer keeps them (`use_ema=True`).

    Raises:
        ValueError: if the config, the data set or the workdir is not as it must be; nothing is written then.
        FloatingPointError: if the loss is not finite.
    """
    config = resolve(config)
    folder = Workdir(pathlib.Path(workdir))
    folder.check(config)
    folder.check_generation(generation is not None)
    replicas = create_strategy(strategy)
    check_batch_size(config["batch_size"], replicas.num_replicas_in_sync)
    info = describe(config["dataset"], config["train_split"], data_dir=data_dir, download=download)
    describe(config["dataset"], config["validation_split"], data_dir=data_dir)
    steps_per_pass = info.num_examples // config["batch_size"]
    steps_per_epoch = config["steps_per_epoch"] or steps_per_pass

    keras.utils.set_random_seed(config["seed"])
    if config["deterministic"]:
        tf.config.experimental.enable_op_determinism()
    with replicas.scope():
        if folder.last.exists():
            model = keras.models.load_model(folder.last)
        else:
            model = build_model(config, steps_per_pass, config["epochs"] * steps_per_epoch)
    options = {"batch_size": config["batch_size"], "one_hot": needs_one_hot_labels(config), "data_dir": data_dir}
    steps_taken = int(model.steps_taken.numpy())
    monitor = "val_robust_accuracy" if config["validation_attack"] else "val_accuracy"
    own_callbacks = _callbacks(config, folder, monitor, steps_taken // steps_per_epoch)
    if 0 < config["early_stopping_patience"] <= folder.epochs_without_progress(monitor):
        return model
    batches = training_batches(
        config["dataset"],
        config["train_split"],
        seed=config["seed"],
        start_step=steps_taken,
        augmentation=config["augmentation"],
        **options,
    )
    with contextlib.ExitStack() as stack:
        if generation is not None:
            attacked = stack.enter_context(generation(model, batches, steps_per_epoch=steps_per_epoch))
            batches, own_callbacks = attacked.data_set, [attacked.callback, *own_callbacks]
        model.fit(
            batches,
            validation_data=evaluation_batches(config["dataset"], config["validation_split"], **options),
            initial_epoch=steps_taken // steps_per_epoch,
            epochs=config["epochs"],
            steps_per_epoch=steps_per_epoch,
            callbacks=[*own_callbacks, *callbacks],
            shuffle=False,  # the stream is shuffled
            verbose=verbose,
        )
    return model


def _callbacks(
    config: dict[str, Any], folder: Workdir, monitor: str, epochs_done: int
) -> list[keras.callbacks.Callback]:
    optional: list[keras.callbacks.Callback] = []
    if config["freeze_batch_statistics_epochs"]:
        optional.append(FreezeBatchStatistics(config["freeze_batch_statistics_epochs"]))
    if config["early_stopping_patience"]:
        optional.append(StopWithoutProgress(folder, monitor, config["early_stopping_patience"]))
    return [
        StopAtNaN(),
        ValidateAverages(),
        StartWorkdir(folder, config),
        keras.callbacks.CSVLogger(str(folder.history), append=True),
        keras.callbacks.TensorBoard(str(folder.tensorboard), write_graph=False),
        SaveModels(folder, monitor, folder.best_value(monitor, epochs_done)),
        *optional,
    ]

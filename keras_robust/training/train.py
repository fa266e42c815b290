"""One call from config to trained model, which goes on where an earlier call stopped."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from etils import epath

from keras_robust.core.checks import check_integer
from keras_robust.data.source import DataFunction
from keras_robust.distribution import create_strategy
from keras_robust.methods import RobustModel, is_chief
from keras_robust.training.build import Classifier
from keras_robust.training.config import resolve
from keras_robust.training.preemption import lost_worker_preempts
from keras_robust.training.run import Generation, Run
from keras_robust.training.workdir import Workdir, folder_of_worker


def train(
    config: Mapping[str, Any],
    workdir: str | os.PathLike[str],
    *,
    classifier: Classifier | None = None,
    data: DataFunction | None = None,
    data_dir: str | None = None,
    download: bool = False,
    data_service: str | None = None,
    strategy: str = "auto",
    tpu: str | None = None,
    checkpoint_steps: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    generation: Generation | None = None,
    verbose: str | int = "auto",
) -> RobustModel:
    """Trains the model of a config in `workdir`, or goes on with the run that is there.

    The batches, the random starts and the weights are functions of the config alone: a run that was killed and started
    again sees what it would have seen. With `config.deterministic` it ends with the same weights, bit for bit, unless
    the classifier drops out units: Keras does not save the state of these draws. (A ResNet-20 that trained on clean
    and attacked images in batches of 128 differed from run to run on CPU; why is not known.) It may go on
    with another number of replicas: the global batches are the same, the random starts differ.

    Args:
        config: see `training.config`.
        workdir: folder of the run; see `training.workdir`.
        classifier: in the place of the config's: a Keras model of images to logits, with the weights that it has, or a
            function that makes one, as several devices need. A class of yours must be registered with Keras by
            `keras.saving.register_keras_serializable`. A run that goes on takes the model of `workdir`.
        data: in the place of the config's data set: a function of the config's `train_split` or `validation_split` that
            returns a `tf.data.Dataset` of examples; see `data.load_split`.
        data_dir: where TFDS keeps its data sets; None is its default.
        download: let TFDS download a data set that is missing.
        data_service: grpc://HOST:PORT of a tf.data service that prepares the batches: see `data.training_batches`.
        strategy: see `create_strategy`. With several workers, all call this with the same arguments, and `workdir` is
            one folder for all of them.
        tpu: see `create_strategy`.
        checkpoint_steps: write a checkpoint after so many steps, too; 0 writes after each epoch alone.
        callbacks: further ones for `fit`, after those of the run.
        generation: who attacks the batches: see `train_async`. None lets the training step do it.
        verbose: as in `keras.Model.fit`.

    Returns:
        The model after the last epoch; with averaged weights, where the optimizer keeps them (`use_ema=True`).

    Raises:
        ValueError: if the config, the data set or the workdir is not as it must be; nothing is written then. Also if a
            file of a folder turns out to be no image; it is named.
        FloatingPointError: if weights, images, attacked images, gradients or the loss are not finite: see `fit`;
            nothing of that epoch is saved.
        Preempted: if SIGTERM came, or another worker is lost; the same call goes on from the last checkpoint.
    """
    config = resolve(config, classifier=classifier, dataset=data)
    check_integer("checkpoint_steps", checkpoint_steps, 0)
    folder = Workdir(epath.Path(workdir))
    folder.check(config)
    folder.check_generation(generation is not None)
    devices = create_strategy(strategy, tpu=tpu)
    run = Run.prepare(config, folder, devices, data_dir, download, data_service, classifier, data)
    model = run.load_or_build()
    if verbose and is_chief(run.strategy):
        for attack in (model.attack, model.validation_attack):
            if attack is not None and attack.compute_dtype == "auto":
                print(
                    f"With compute_dtype='auto' this machine attacks in {attack.resolved_compute_dtype}: {attack.name}"
                )
    with folder_of_worker(folder, run.strategy) as output, lost_worker_preempts(run.strategy):
        options: dict[str, Any] = {
            "checkpoint_steps": checkpoint_steps,
            "callbacks": callbacks,
            "generation": generation,
            "verbose": verbose,
        }
        epochs, steps_of_epoch = divmod(int(model.steps_taken.numpy()), run.steps_per_epoch)
        output.drop_lost_rows(epochs)
        if steps_of_epoch:
            run.fit(model, output, **options)
            model = run.load_or_build()  # `fit` leaves averaged weights: the run goes on from those that it saved
        if run.stops_early(output):
            model.use_averages()  # as `fit` does
        else:
            run.fit(model, output, **options)
    return model

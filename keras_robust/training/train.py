"""`train`: one call from a config to a trained model. It resumes where an earlier call stopped."""

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
    """Trains the model of a config in `workdir`, or resumes the run that is in `workdir`.

    The batches and the random starts of attacks depend only on the config, so a run that was killed and resumed sees
    the same ones. With `config.deterministic`, such a run also ends with the same weights, bit for bit. This does not
    hold for classifiers with dropout, because Keras does not save the state of its draws. It also did not hold on CPU
    for a ResNet-20 that trained on clean and attacked images in batches of 128; the reason is not known. A run may
    resume with another number of replicas: its global batches are then the same, but its random starts differ.

    Args:
        config: see `training.config`.
        workdir: folder of the run; see `training.workdir`.
        classifier: replaces the classifier of the config: a Keras model from images to logits, which keeps its weights,
            or a function that makes one. Several devices need the function. Register your own class with
            `keras.saving.register_keras_serializable`. A resumed run ignores this model and loads that of `workdir`.
        data: replaces the data set of the config: a function that maps the config's `train_split` or `validation_split`
            to a `tf.data.Dataset` of examples; see `data.load_split`.
        data_dir: folder of prepared data sets. None means TFDS's default, usually ~/tensorflow_datasets.
        download: whether TFDS may download a data set that is missing.
        data_service: grpc://HOST:PORT of a tf.data service that prepares the batches; see `data.training_batches`. None
            prepares them in this process.
        strategy: see `create_strategy`. With several workers, each must make this call with the same arguments, and
            `workdir` must be one folder that all of them share.
        tpu: see `create_strategy`.
        checkpoint_steps: steps from one checkpoint to the next in the middle of an epoch. 0 writes checkpoints only
            after each epoch and after SIGTERM.
        callbacks: further callbacks for `fit`. They run after those of the run.
        generation: makes attacked batches outside the training step: see `train_async`. None attacks in the training
            step.
        verbose: see `keras.Model.fit`.

    Returns:
        The model after the last epoch. If the optimizer averages weights (`use_ema=True`), it has the averages.

    Raises:
        ValueError: if the config, the data set or the workdir is wrong, before anything is written. Later, if a file in
            an image folder is no image; the message names the file.
        FloatingPointError: if weights, images, attacked images, gradients or the loss are not finite: see `fit`. The
            epoch in which this happens is not saved.
        Preempted: if SIGTERM was received, or another worker was lost. The same call resumes from the last checkpoint.
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
            model = run.load_or_build()  # `fit` ends with averaged weights: load the saved ones
        if run.stops_early(output):
            model.use_averages()  # as `fit` does at its end
        else:
            run.fit(model, output, **options)
    return model

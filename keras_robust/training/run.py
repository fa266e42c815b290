"""A training run: checks of its data, its model, its batches and its callbacks."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_robust.core.serialization import import_named, not_registered
from keras_robust.data import check_batch_size, describe, evaluation_batches, training_batches
from keras_robust.data.decoding import naming_bad_images
from keras_robust.data.source import DataFunction
from keras_robust.distribution import AttackedBatches
from keras_robust.methods import FreezeBatchStatistics, RobustModel, is_chief, is_multi_worker
from keras_robust.methods.weight_averages import ValidateAverages
from keras_robust.training.build import Classifier, build_model, check_can_be_loaded, needs_one_hot_labels, own_paths
from keras_robust.training.callbacks import SaveModels, StartWorkdir, StopWithoutProgress
from keras_robust.training.config import steps_of_epoch
from keras_robust.training.preemption import Checkpoint, FinishEpoch, catch_sigterm
from keras_robust.training.workdir import Workdir

Generation = Callable[..., contextlib.AbstractContextManager[AttackedBatches]]
"""Makes attacked batches from a model, its clean batches and `steps_per_epoch`: see `asynchronous_generation`."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of `train`.

    Attributes:
        config: a config that `training.config.resolve` returned.
        workdir: the folder of the run, from which it resumes.
        strategy: the devices.
        data_dir: folder of prepared data sets. None means TFDS's default.
        data_service: address of the tf.data service that prepares the batches, or None.
        classifier: replaces the classifier of the config, or None.
        data: replaces the data set of the config, or None.
        steps_per_pass: batches in a pass over the training data.
        image_shape: (height, width, channels) of the images in batches.
    """

    config: Mapping[str, Any]
    workdir: Workdir
    strategy: tf.distribute.Strategy
    data_dir: str | None
    data_service: str | None
    classifier: Classifier | None
    data: DataFunction | None
    steps_per_pass: int
    image_shape: tuple[int, int, int]

    @classmethod
    def prepare(
        cls,
        config: dict[str, Any],
        workdir: Workdir,
        strategy: tf.distribute.Strategy,
        data_dir: str | None,
        download: bool,
        data_service: str | None,
        classifier: Classifier | None = None,
        data: DataFunction | None = None,
    ) -> "Run":
        """Checks the data, sets the random seeds, and returns the run.

        Raises:
            ValueError: if the batch cannot be divided evenly among the replicas; if the data are missing, differ in
                size, or are fewer than a batch; if `steps_per_epoch` is not a multiple of `steps_per_execution`; or if
                there are a data service and several workers.
        """
        if data_service is not None and is_multi_worker(strategy):
            raise ValueError(
                "A data service feeds one process only. Do not use it with several workers: they would not train on "
                f"the same global batches. Received: data_service={data_service!r} with several workers"
            )
        check_batch_size(config["batch_size"], strategy.num_replicas_in_sync)
        options = {"data_dir": data_dir, "on_bad_image": config["on_bad_image"]}
        name = config["dataset"] if data is None else data
        if not isinstance(name, str) and not callable(name):
            raise ValueError(
                "dataset must be a name or the path of a function. Pass a function itself to `train` as `data`. "
                f"Received: dataset={name!r}"
            )
        info = describe(name, config["train_split"], download=download, **options)
        validation = describe(name, config["validation_split"], **options)
        shape, _ = (part.shape_at(config["image_size"]) for part in (info, validation))
        if config["batch_size"] > info.num_examples:
            raise ValueError(
                f"batch_size must be at most {info.num_examples}, the number of examples in {info.split!r} of "
                f"{info.name!r}. "
                f"Received: batch_size={config['batch_size']}"
            )
        steps_per_pass = info.num_examples // config["batch_size"]
        steps_of_epoch(config, steps_per_pass)
        keras.utils.set_random_seed(config["seed"])
        if config["deterministic"]:
            tf.config.experimental.enable_op_determinism()
        return cls(config, workdir, strategy, data_dir, data_service, classifier, data, steps_per_pass, shape)

    @property
    def steps_per_epoch(self) -> int:
        """Batches from one validation to the next."""
        return steps_of_epoch(self.config, self.steps_per_pass)

    @property
    def monitor(self) -> str:
        """Name of the metric whose highest value is best."""
        return "val_robust_accuracy" if self.config["validation_attack"] else "val_accuracy"

    def load_or_build(self) -> RobustModel:
        """Returns the model in `last.keras`, or a new one if the run has not written this file yet.

        Raises:
            ValueError: if the model cannot be built or loaded.
        """
        own = own_paths(self.config)
        with self.strategy.scope():
            if self.workdir.last.exists():
                for section, path in own.items():
                    import_named(section, path)  # registers its classes with Keras
                return self._load()
            total_steps = self.config["epochs"] * self.steps_per_epoch
            model = build_model(self.config, self.steps_per_pass, total_steps, classifier=self.classifier)
            if own or self.classifier is not None:
                if not model.classifier.built:
                    model.classifier(tf.zeros((1, *self.image_shape)))
                check_can_be_loaded(model)
            return model

    def _load(self) -> RobustModel:
        try:
            return keras.models.load_model(self.workdir.last)
        except TypeError as error:
            absent = not_registered(error)
            if absent is None:
                raise
            raise ValueError(
                f"The model of this run contains the {absent}, which Keras does not know. Before training, import the "
                "module that registers it with keras.saving.register_keras_serializable. Received: "
                f"{self.workdir.last}"
            ) from error

    def stops_early(self, history: Workdir) -> bool:
        """Returns whether the history shows no progress for `early_stopping_patience` epochs."""
        return 0 < self.config["early_stopping_patience"] <= history.epochs_without_progress(self.monitor)

    def fit(
        self,
        model: RobustModel,
        output: Workdir,
        *,
        checkpoint_steps: int,
        callbacks: Sequence[keras.callbacks.Callback],
        generation: Generation | None,
        verbose: str | int,
    ) -> None:
        """Trains the rest of an interrupted epoch. If no epoch was interrupted, trains all remaining epochs.

        Args:
            model: the model that `load_or_build` returned.
            output: the folder to write to; see `workdir.folder_of_worker`.
            checkpoint_steps: see `train`.
            callbacks: see `train`.
            generation: see `train`.
            verbose: see `train`.
        """
        steps_taken = int(model.steps_taken.numpy())
        epoch, steps_of_epoch = divmod(steps_taken, self.steps_per_epoch)
        batches = self._training_data(steps_taken)
        own_callbacks = self._callbacks(output)
        with contextlib.ExitStack() as stack:
            if generation is not None:
                attacked = stack.enter_context(generation(model, batches, steps_per_epoch=self.steps_per_epoch))
                batches, own_callbacks = attacked.data_set, [attacked.callback, *own_callbacks]
            if steps_of_epoch:
                own_callbacks.append(FinishEpoch(self.workdir))
            asked_to_end = stack.enter_context(catch_sigterm())  # after Ray, which also handles SIGTERM
            stack.enter_context(naming_bad_images())
            own_callbacks.append(Checkpoint(output, self.steps_per_epoch, checkpoint_steps, asked_to_end))
            model.fit(
                batches,
                validation_data=self._validation_data(),
                initial_epoch=epoch,
                epochs=self.config["epochs"],
                steps_per_epoch=self.steps_per_epoch - steps_of_epoch,
                callbacks=[*own_callbacks, *callbacks],
                shuffle=False,  # the batches are shuffled already
                verbose=verbose if is_chief(self.strategy) else 0,
            )

    @property
    def _dataset(self) -> str | DataFunction:
        return self.config["dataset"] if self.data is None else self.data

    def _data_options(self) -> dict[str, Any]:
        one_hot = needs_one_hot_labels(self.config)
        own = {name: self.config[name] for name in ("batch_size", "image_size", "on_bad_image")}
        return {**own, "one_hot": one_hot, "data_dir": self.data_dir}

    def _training_data(self, start_step: int) -> tf.data.Dataset:
        return training_batches(
            self._dataset,
            self.config["train_split"],
            seed=self.config["seed"],
            start_step=start_step,
            augmentation=self.config["augmentation"],
            data_service=self.data_service,
            **self._data_options(),
        )

    def _validation_data(self) -> tf.data.Dataset:
        return evaluation_batches(self._dataset, self.config["validation_split"], **self._data_options())

    def _callbacks(self, output: Workdir) -> list[keras.callbacks.Callback]:
        optional: list[keras.callbacks.Callback] = []
        if self.config["freeze_batch_statistics_epochs"]:
            optional.append(FreezeBatchStatistics(self.config["freeze_batch_statistics_epochs"]))
        if self.config["early_stopping_patience"]:
            optional.append(StopWithoutProgress(output, self.monitor, self.config["early_stopping_patience"]))
        return [
            ValidateAverages(),
            StartWorkdir(output, dict(self.config)),
            keras.callbacks.CSVLogger(str(output.history), append=True),
            keras.callbacks.TensorBoard(str(output.tensorboard), write_graph=False),
            SaveModels(output, self.monitor, output.best_value(self.monitor)),
            *optional,
        ]

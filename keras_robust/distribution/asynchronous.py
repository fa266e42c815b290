"""Asynchronous generation: workers attack batches while the model trains (Bhat et al., 2018, section 5)."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core.checks import check_integer
from keras_robust.distribution.crafted_batches import CRAFTED_AT, NOT_CRAFTED, TrainsOnCraftedBatches
from keras_robust.distribution.crafter import Crafter, recipe
from keras_robust.distribution.crafting_queue import CraftingQueue, Pool
from keras_robust.distribution.ray_pool import RayPool
from keras_robust.layers import ADVERSARIAL, CLEAN
from keras_robust.methods import RobustModel, StaleAdversarialTraining


@contextlib.contextmanager
def asynchronous_generation(
    model: RobustModel,
    batches: tf.data.Dataset,
    *,
    workers: int = 1,
    publish_every: int = 10,
    max_staleness: int | None = None,
    capacity: int | None = None,
    steps_per_epoch: int | None = None,
    ray_address: str | None = None,
    worker_cpus: int = 1,
    worker_gpus: float = 0.0,
    pool: Pool | None = None,
) -> Iterator["AttackedBatches"]:
    """Lets workers attack the batches on which a model trains. The workers stop when the `with` block ends.

        with asynchronous_generation(model, batches, workers=4, steps_per_epoch=1000) as attacked:
            model.fit(attacked.data_set, callbacks=[attacked.callback], steps_per_epoch=1000, epochs=10)

    Workers attack with weights that are published every `publish_every` training steps. If no attacked batch is
    finished, the training step attacks one itself. The model trains on every batch once. The order of the batches
    depends on the workers, so runs are not reproducible bit for bit.

    The model can be any `RobustModel` with an attack, except `FreeAdversarialTraining` and `StaleAdversarialTraining`.

    `fit` logs the mean `staleness` of an epoch: the number of training steps between the weights that attacked a batch
    and the weights that train on it. With the callback, `fit` also logs three counts per epoch:

    - `own_batches`: batches that the trainer attacked itself;
    - `dropped_batches`: attacks that were too old; the trainer attacked these batches again;
    - `replaced_workers`: workers that died and were replaced.

    Args:
        model: a compiled model. It trains in this process.
        batches: clean batches as `fit` reads them: (images, labels) or (images, labels, sample weights).
        workers: number of workers, at least 1.
        publish_every: training steps between two publications of the weights, at least 1. The paper uses 100. In a
            short training whose batches are all attacked by workers, 100 leaves no robustness
            (docs/asynchronous.md). In figure 8 of the paper, staleness up to 32 does no harm.
        max_staleness: largest accepted staleness of an attack in training steps, at least `publish_every`. None means
            `publish_every` plus twice `capacity`, which is reached only if a worker stalls.
        capacity: largest number of batches that are with the workers, attacked or not, at least 1. None means 3 per
            worker. With fewer, workers are idle while the trainer attacks. With more, the attacks are older.
        steps_per_epoch: the same value as for `fit`. Each epoch then has the same batches as without workers. With
            None and endless `batches`, the model may train on a batch any number of epochs late.
        ray_address: see `RayPool`.
        worker_cpus: CPU cores of a worker, at least 1.
        worker_gpus: GPUs of a worker. With a fraction, several workers share a GPU.
        pool: workers to use instead of a `RayPool`.

    Yields:
        An `AttackedBatches`: the data set and the callback for `fit`.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: if an argument is out of its range, or workers cannot attack for the model.
        RuntimeError: if the workers do not start, or if no worker is left.
    """
    capacity = 3 * workers if capacity is None else capacity
    max_staleness = publish_every + 2 * capacity if max_staleness is None else max_staleness
    _check_arguments(workers, publish_every, max_staleness, capacity)
    _check_model(model)
    _check_batches(batches)
    if pool is None:
        arguments = {**recipe(model), "threads": worker_cpus}
        pool = RayPool(Crafter, arguments, workers=workers, ray_address=ray_address, cpus=worker_cpus, gpus=worker_gpus)
    try:
        step = _steps_taken(model)
        pool.publish(model.get_weights(), step)
        queue = CraftingQueue(pool, capacity=capacity, max_staleness=max_staleness, first_ticket=step)
        attacked = AttackedBatches(batches, queue, PublishWeights(queue, publish_every, step), steps_per_epoch)
        try:
            with TrainsOnCraftedBatches(model):
                yield attacked
        except tf.errors.OpError:
            if attacked.error is None:
                raise
            raise attacked.error from None  # tf.data replaces this error by one of its own
    finally:
        pool.stop()


class AttackedBatches:
    """The batches that workers attack, as a data set, and the callback that `fit` needs for them.

    Args:
        clean: `batches` of `asynchronous_generation`.
        queue: hands the batches to the workers.
        callback: a callback with the same queue. It knows the training step.
        steps_per_epoch: see `asynchronous_generation`.

    Attributes:
        data_set: the data set for `fit`. The images of a batch are a dict: see `TrainsOnCraftedBatches`.
        callback: publishes weights and logs counts. Give it to `fit` before callbacks that log.
        error: the exception that ended the data set, or None.
    """

    def __init__(
        self, clean: tf.data.Dataset, queue: CraftingQueue, callback: "PublishWeights", steps_per_epoch: int | None
    ) -> None:
        self.callback = callback
        self.error: Exception | None = None
        self._clean = clean
        self._queue = queue
        self._steps_per_epoch = steps_per_epoch
        images, *others = clean.element_spec
        crafted = {CLEAN: images, ADVERSARIAL: images, CRAFTED_AT: tf.TensorSpec(images.shape[:1], tf.int32)}
        data_set = tf.data.Dataset.from_generator(self._stream, output_signature=(crafted, *others))
        if clean.cardinality() != tf.data.UNKNOWN_CARDINALITY:
            data_set = data_set.apply(tf.data.experimental.assert_cardinality(clean.cardinality()))
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # prefetched batches would become older
        self.data_set = data_set.with_options(options)

    def _stream(self) -> Iterator[tuple[Any, ...]]:
        """Yields the elements of the data set, from the model's current step on."""
        clean = self._clean.as_numpy_iterator()
        step = (
            self.callback.step
        )  # the model may be ahead: TensorFlow can count a step while it still waits for the batch
        try:
            while True:
                before = step
                for (images, *others), crafted in self._queue.attacked(self._rest_of_epoch(clean, step), step):
                    step += 1
                    adversarial, crafted_at = (
                        (images, NOT_CRAFTED) if crafted is None else (crafted.images, crafted.crafted_at)
                    )
                    when = np.full(len(images), crafted_at, np.int32)
                    yield {CLEAN: images, ADVERSARIAL: adversarial, CRAFTED_AT: when}, *others
                if step == before:
                    return
        except Exception as error:
            self.error = error
            raise

    def _rest_of_epoch(self, clean: Iterator[Any], step: int) -> Iterator[Any]:
        size = self._steps_per_epoch
        return itertools.islice(clean, size and size - step % size)


class PublishWeights(keras.callbacks.Callback):
    """Publishes the weights every `publish_every` training steps, and logs the counts of `asynchronous_generation`.

    Args:
        queue: the queue of the batches.
        publish_every: training steps between two publications, at least 1.
        step: number of training steps that the model had taken when its weights were last published.

    Attributes:
        step: number of training steps that the model had taken at the end of the last batch.
    """

    def __init__(self, queue: CraftingQueue, publish_every: int, step: int) -> None:
        super().__init__()
        self.queue = queue
        self.publish_every = publish_every
        self.step = step
        self._published_at = step
        self._counted = self._counts()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Publishes the weights when they are due."""
        self.step = _steps_taken(self.model)
        if self.step - self._published_at >= self.publish_every:
            self.queue.pool.publish(self.model.get_weights(), self.step)
            self._published_at = self.step

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the counts of the epoch to its logs, so that later callbacks see them."""
        counts = self._counts()
        if logs is not None:
            logs |= {name: count - self._counted[name] for name, count in counts.items()}
        self._counted = counts

    def _counts(self) -> dict[str, int]:
        return {
            "own_batches": self.queue.own,
            "dropped_batches": self.queue.dropped,
            "replaced_workers": self.queue.pool.replaced,
        }


def _steps_taken(model: RobustModel) -> int:
    return int(model.steps_taken.numpy())


def _check_arguments(workers: int, publish_every: int, max_staleness: int, capacity: int) -> None:
    check_integer("workers", workers)
    check_integer("publish_every", publish_every)
    check_integer("capacity", capacity)
    check_integer("max_staleness", max_staleness, 0)
    if max_staleness < publish_every:
        raise ValueError(
            "max_staleness must be at least publish_every. Otherwise attacks with the latest weights would be dropped. "
            f"Received: max_staleness={max_staleness}, publish_every={publish_every}"
        )


def _check_model(model: RobustModel) -> None:
    if isinstance(model, StaleAdversarialTraining) or type(model).train_step is not RobustModel.train_step:
        raise ValueError(
            "Asynchronous generation needs a method that attacks each batch in `perturb` and trains on it in the same "
            "step. FreeAdversarialTraining and StaleAdversarialTraining do not. "
            f"Received: a {type(model).__name__}"
        )
    if model.attack is None:
        raise ValueError(
            f"Asynchronous generation needs a method with an attack. Received: a {type(model).__name__} without one"
        )
    if isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "Asynchronous generation must have one trainer process. Use MirroredStrategy or no strategy instead. "
            "Received: a model of MultiWorkerMirroredStrategy"
        )


def _check_batches(batches: Any) -> None:
    spec = getattr(batches, "element_spec", None)
    if (
        not isinstance(spec, tuple)
        or len(spec) not in (2, 3)
        or not all(isinstance(part, tf.TensorSpec) for part in spec)
    ):
        raise ValueError(
            "batches must be a tf.data.Dataset of (images, labels) or (images, labels, sample weights). "
            f"Received: {batches!r}"
        )

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
    """Lets workers attack the batches that a model is trained on, until the `with` block ends, however it ends.

        with asynchronous_generation(model, batches, workers=4, steps_per_epoch=1000) as attacked:
            model.fit(attacked.data_set, callbacks=[attacked.callback], steps_per_epoch=1000, epochs=10)

    Workers attack with weights that are published every `publish_every` training steps. While no attacked batch is
    finished, the training step attacks one itself. Every batch is trained on once, in an order that depends on the
    workers, so runs are not reproducible bit for bit. Any `RobustModel` that has an attack can be trained so, but for
    `FreeAdversarialTraining` and `StaleAdversarialTraining`.

    `fit` logs the mean `staleness`: the steps between the weights that attacked a batch and those it is trained on.
    With the callback it also logs how many batches of an epoch the trainer attacked itself (`own_batches`), how many
    attacks were too old (`dropped_batches`; the trainer attacks these batches again), and how many workers died and
    were replaced (`replaced_workers`).

    Args:
        model: compiled; its training runs in this process.
        batches: clean ones, as `fit` reads them: (images, labels) or (images, labels, sample weights).
        workers: how many, at least 1.
        publish_every: training steps, at least 1. The paper's 100 leaves no robustness where workers attack all batches
            of a short training (docs/asynchronous.md); staleness up to 32 does no harm in its figure 8.
        max_staleness: of an attack, in training steps, at least `publish_every`; None for `publish_every` plus twice
            `capacity`, which is not reached unless a worker stalls.
        capacity: of the queue: batches that workers have, attacked or not, at least 1; None for 3 per worker: with
            fewer, workers have nothing to do while the trainer attacks; more make the attacks older.
        steps_per_epoch: of `fit`: each epoch then has the batches that it would have without workers. None lets a
            batch be late by any number of epochs, where `batches` have no end.
        ray_address: as of `RayPool`.
        worker_cpus: CPU cores of a worker, at least 1.
        worker_gpus: GPUs of a worker; a fraction lets several share one.
        pool: the workers, instead of a `RayPool`.

    Yields:
        The data set and the callback for `fit`.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: if an argument is out of its range, or the model cannot be trained so.
        RuntimeError: if the workers do not start, or if none is left.
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
            raise attacked.error from None  # tf.data knows errors of its own only
    finally:
        pool.stop()


class AttackedBatches:
    """What `asynchronous_generation` makes of clean batches.

    Args:
        clean: as its `batches`.
        queue: of the batches.
        callback: of the same queue; it knows the training step.
        steps_per_epoch: as of `asynchronous_generation`.

    Attributes:
        data_set: for `fit`: each batch's images are a dict, see `TrainsOnCraftedBatches`.
        callback: for `fit`, before callbacks that log: publishes weights and logs counts.
        error: what ended the stream, or None.
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
        options.experimental_optimization.inject_prefetch = False  # a batch is as old as when it leaves the queue
        self.data_set = data_set.with_options(options)

    def _stream(self) -> Iterator[tuple[Any, ...]]:
        """Yields the elements of the data set, from the model's present step on."""
        clean = self._clean.as_numpy_iterator()
        step = self.callback.step  # the model's own counter may be ahead: TensorFlow counts while it waits for a batch
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
    """Publishes the weights every so many training steps, and logs what became of the batches of each epoch.

    Args:
        queue: of the batches.
        publish_every: training steps, at least 1.
        step: training steps that have made the weights that are published now.

    Attributes:
        step: training steps taken when the last batch ended.
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
        """Adds the counts of the epoch to its logs, where other callbacks find them."""
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
            "max_staleness is at least publish_every: attacks on the weights published last would be thrown away. "
            f"Received: max_staleness={max_staleness}, publish_every={publish_every}"
        )


def _check_model(model: RobustModel) -> None:
    if isinstance(model, StaleAdversarialTraining) or type(model).train_step is not RobustModel.train_step:
        raise ValueError(
            "Workers attack for methods that are attacked in `perturb` and trained on at once. "
            f"Received: a {type(model).__name__}"
        )
    if model.attack is None:
        raise ValueError(f"Workers have nothing to do without an attack. Received: a {type(model).__name__}")
    if isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "Asynchronous generation has one trainer process. Received: a model of MultiWorkerMirroredStrategy"
        )


def _check_batches(batches: Any) -> None:
    spec = getattr(batches, "element_spec", None)
    if (
        not isinstance(spec, tuple)
        or len(spec) not in (2, 3)
        or not all(isinstance(part, tf.TensorSpec) for part in spec)
    ):
        raise ValueError(
            "batches are a tf.data.Dataset of (images, labels) or (images, labels, sample weights). "
            f"Received: {batches!r}"
        )

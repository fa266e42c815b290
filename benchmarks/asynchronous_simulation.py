"""A discrete-event simulation of asynchronous generation: how long training takes with any number of workers.

The queue is that of `keras_robust.distribution`. Only the workers and the clock are simulated. Costs are constant:

- The trainer needs `train` seconds for a step, `attack` more seconds if it attacks the batch itself, `transfer` seconds
  to send a batch and receive it, and `publish` seconds for each set of weights.
- A worker needs `attack` seconds per batch. It attacks one batch after the other, in the order in which they were sent.

If attacks take much longer than `transfer` and `publish`, the speed-up has a closed form. With few workers, the trainer
and the n workers share the attacks evenly, and training is 1 + n times as fast. With many workers, the trainer never
attacks, and training is 1 + attack / train times as fast. If the trainer always waits for workers, as in Bhat et al.
(2018), training is min(n, attack / train) * (1 + train / attack) times as fast.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from keras_robust.distribution import Crafted, CraftingQueue


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds.

    Attributes:
        train: a training step on an attacked batch.
        attack: of a batch.
        transfer: what a batch costs the trainer to hand out and take back.
        publish: what a set of weights costs the trainer.
    """

    train: float
    attack: float
    transfer: float = 0.0
    publish: float = 0.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of a simulated training.

    Attributes:
        speed_up: seconds without workers divided by seconds with them.
        staleness: mean over all steps.
        largest_staleness: of any step.
        own_share: of the steps, those whose batch the trainer attacked itself.
    """

    speed_up: float
    staleness: float
    largest_staleness: int
    own_share: float


class SimulatedPool:
    """Workers that are finished with a batch when a clock says so; a `Pool`."""

    replaced = 0

    def __init__(self, workers: int, attack: float) -> None:
        self.now = 0.0
        self._attack = attack
        self._free_at = [0.0] * workers
        self._published = 0
        self._running: list[tuple[float, Crafted]] = []

    def hand_out(self, ticket: int, images: Any, labels: Any) -> None:
        """Lets the worker that is free first attack the batch, with the weights published last."""
        del labels
        worker = min(range(len(self._free_at)), key=self._free_at.__getitem__)
        self._free_at[worker] = max(self.now, self._free_at[worker]) + self._attack
        self._running.append((self._free_at[worker], Crafted(ticket, images, self._published)))

    def collect(self) -> list[Crafted]:
        """Returns what is finished now."""
        finished = sorted((job for job in self._running if job[0] <= self.now), key=lambda job: job[0])
        self._running = [job for job in self._running if job[0] > self.now]
        return [crafted for _, crafted in finished]

    def publish(self, weights: Sequence[Any], step: int) -> None:
        """Remembers the step."""
        del weights
        self._published = step

    def stop(self) -> None:
        """Does nothing."""


def simulate(
    costs: Costs,
    workers: int,
    *,
    steps: int = 10_000,
    publish_every: int = 10,
    max_staleness: int | None = None,
    capacity: int | None = None,
) -> Outcome:
    """Simulates training.

    Args:
        costs: in seconds.
        workers: at least 1.
        steps: of training.
        publish_every: as in `asynchronous_generation`.
        max_staleness: likewise.
        capacity: likewise.
    """
    pool = SimulatedPool(workers, costs.attack)
    capacity = capacity or 3 * workers
    max_staleness = publish_every + 2 * capacity if max_staleness is None else max_staleness
    queue = CraftingQueue(pool, capacity=capacity, max_staleness=max_staleness)
    staleness = []
    batches = itertools.repeat((None, None))
    for step, (_, crafted) in enumerate(itertools.islice(queue.attacked(batches, 0), steps)):
        pool.now += costs.train + (costs.attack if crafted is None else costs.transfer)
        staleness.append(0 if crafted is None else step - crafted.crafted_at)
        if (step + 1) % publish_every == 0:
            pool.now += costs.publish
            pool.publish((), step + 1)
    return Outcome(
        speed_up=steps * (costs.train + costs.attack) / pool.now,
        staleness=sum(staleness) / steps,
        largest_staleness=max(staleness),
        own_share=queue.own / steps,
    )

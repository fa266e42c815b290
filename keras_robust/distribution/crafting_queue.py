"""The bounded queue between the workers, which attack batches, and the trainer, which trains on them."""

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

Batch = tuple[np.ndarray, ...]
"""(images, labels) or (images, labels, sample weights)."""


@dataclasses.dataclass(frozen=True)
class Crafted:
    """A batch that a worker has attacked.

    Attributes:
        ticket: the number under which the batch was handed out.
        images: the attacked images, of the shape of the clean images.
        crafted_at: number of training steps that the model had taken when it had the weights of the attack.
    """

    ticket: int
    images: np.ndarray
    crafted_at: int


class Pool(Protocol):
    """Workers that attack batches, for example a `RayPool`."""

    replaced: int
    """Number of workers that died and were replaced."""

    def hand_out(self, ticket: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Gives a batch to a worker, which attacks it at once or later. Returns without waiting for the attack."""

    def collect(self) -> list[Crafted]:
        """Returns the batches that were finished since the last call. Does not wait.

        Raises:
            RuntimeError: if no worker is left.
        """

    def publish(self, weights: Sequence[np.ndarray], step: int) -> None:
        """Lets the workers attack all batches that are handed out from now on with `weights`.

        Args:
            weights: `get_weights()` of the model.
            step: number of training steps that the model has taken.
        """

    def stop(self) -> None:
        """Ends all workers."""


class CraftingQueue:
    """Hands clean batches out to workers and takes attacked batches back. It never waits.

    If no batch is finished, the trainer attacks one itself. It takes the next clean batch. After the last clean batch
    it takes the batch that was handed out last, because a worker has most likely not begun it.

    Args:
        pool: the workers.
        capacity: largest number of batches that are with the workers, attacked or not, at least 1.
        max_staleness: largest accepted age of the weights of an attack, in training steps, at least 0. An older attack
            is dropped, and the trainer attacks the batch itself.
        first_ticket: number of the first batch that is handed out. The random starts depend on it.

    Attributes:
        own: number of batches that the trainer attacked.
        dropped: number of attacks that were dropped.
    """

    def __init__(self, pool: Pool, *, capacity: int, max_staleness: int, first_ticket: int = 0) -> None:
        self.pool = pool
        self.capacity = capacity
        self.max_staleness = max_staleness
        self.own = 0
        self.dropped = 0
        self._tickets = itertools.count(first_ticket)
        self._handed_out: dict[int, Batch] = {}
        self._finished: deque[Crafted] = deque()

    def attacked(self, clean: Iterator[Batch], step: int) -> Iterator[tuple[Batch, Crafted | None]]:
        """Yields each batch of `clean` once, with its attack, or with None if the trainer must attack it.

        Batches that an earlier call handed out are discarded. The first batch is yielded before any batch is handed
        out. So a caller that only looks at the first batch costs no worker's time.

        Args:
            clean: clean batches, a finite number or endless.
            step: number of training steps that the model has taken. Each batch adds one.

        Raises:
            RuntimeError: if no worker is left.
        """
        self._handed_out.clear()
        self._finished.clear()
        while (item := self._next(clean, step)) is not None:
            yield item
            step += 1
            for batch in itertools.islice(clean, self.capacity - len(self._handed_out)):
                ticket = next(self._tickets)
                self._handed_out[ticket] = batch
                self.pool.hand_out(ticket, *batch[:2])

    def _next(self, clean: Iterator[Batch], step: int) -> tuple[Batch, Crafted | None] | None:
        self._finished.extend(crafted for crafted in self.pool.collect() if crafted.ticket in self._handed_out)
        if self._finished:
            crafted = self._finished.popleft()
            batch = self._handed_out.pop(crafted.ticket)
            if step - crafted.crafted_at <= self.max_staleness:
                return batch, crafted
            self.dropped += 1
        else:
            following = next(clean, None)
            if following is None and not self._handed_out:
                return None
            batch = following or self._handed_out.popitem()[1]  # handed out last
        self.own += 1
        return batch, None

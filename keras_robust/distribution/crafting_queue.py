"""The bounded queue between those who attack batches and the one who trains on them."""

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
    """What a worker made of a batch.

    Attributes:
        ticket: the number under which the batch was handed out.
        images: attacked, of the shape of the batch's images.
        crafted_at: how many training steps had made the weights that they were attacked with.
    """

    ticket: int
    images: np.ndarray
    crafted_at: int


class Pool(Protocol):
    """Workers that attack batches; `RayPool` is one."""

    replaced: int
    """Workers that died and were replaced."""

    def hand_out(self, ticket: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Lets a worker attack a batch, at once or later."""

    def collect(self) -> list[Crafted]:
        """Returns what was finished since the last call, in order of completion, without waiting.

        Raises:
            RuntimeError: if no worker is left.
        """

    def publish(self, weights: Sequence[np.ndarray], step: int) -> None:
        """Lets the workers attack what they begin from now on with `weights`, made by `step` training steps."""

    def stop(self) -> None:
        """Ends all workers."""


class CraftingQueue:
    """Hands clean batches out to workers and takes attacked ones back, every batch once and never waiting.

    At most `capacity` batches are with the workers, finished or not. Where none is finished, the trainer attacks one
    itself: the next of the stream, or at its end one that a worker has not begun, most likely.

    Args:
        pool: the workers.
        capacity: at least 1.
        max_staleness: an attack on weights that are more training steps old is thrown away, at least 0; the trainer
            then attacks the batch itself.
        first_ticket: number of the first batch that is handed out; random starts depend on it.

    Attributes:
        own: batches that the trainer attacked.
        dropped: attacks that were thrown away.
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
        """Yields each batch of `clean` once, with its attack, or None where the trainer is to attack it.

        What an earlier call has handed out is forgotten. Nothing is handed out before the first batch is yielded, so
        that a look at that one costs no worker's time.

        Args:
            clean: batches; they may end.
            step: training steps taken before the first batch is trained on; each batch is one.

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
            batch = following or self._handed_out.popitem()[1]  # the one handed out last
        self.own += 1
        return batch, None

"""Workers that finish when a test says so."""

import numpy as np

from keras_robust.distribution import Crafted


class FakePool:
    """Attacks by adding 0.25, and delivers a batch when it was looked for `delay` times since it was handed out."""

    def __init__(self, delay: int = 1) -> None:
        self.delay = delay
        self.replaced = 0
        self.handed_out: list[int] = []
        self.published: list[int] = []
        self.stopped = False
        self._waiting: dict[int, tuple[int, Crafted]] = {}

    def hand_out(self, ticket, images, labels):
        self.handed_out.append(ticket)
        attacked = np.minimum(images + 0.25, 1.0, dtype=np.float32)
        self._waiting[ticket] = (self.delay, Crafted(ticket, attacked, self.published[-1]))

    def collect(self):
        left = {ticket: (delay - 1, crafted) for ticket, (delay, crafted) in self._waiting.items()}
        self._waiting = {ticket: job for ticket, job in left.items() if job[0] > 0}
        return [crafted for delay, crafted in left.values() if delay <= 0]

    def publish(self, weights, step):
        del weights
        self.published.append(step)

    def stop(self):
        self.stopped = True

    @property
    def waiting(self) -> int:
        """Batches that were handed out and not collected."""
        return len(self._waiting)

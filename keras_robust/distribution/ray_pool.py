"""The workers of asynchronous generation as Ray actors."""

import dataclasses
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_robust.core.checks import check_integer, check_weight
from keras_robust.distribution.crafting_queue import Crafted


def import_ray() -> Any:
    """Returns the module `ray`.

    Raises:
        ImportError: if it is not installed. The message says how to install it.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("Asynchronous generation needs Ray: pip install 'ray>=2.40'") from error
    return ray


@dataclasses.dataclass(frozen=True)
class _Job:
    """A call of an actor: an attack on a batch, or without a ticket a call of `set_weights`."""

    actor: Any
    ticket: int | None = None
    batch: tuple[np.ndarray, np.ndarray] | None = None


class RayPool:
    """Ray actors that attack batches. An actor that dies is replaced, and its batches go to other actors.

    An actor runs its calls in order. So it attacks a batch with the weights that were published last before it was
    given the batch.

    Args:
        crafter: the class of the actors, such as `Crafter`, with the methods `ready`, `set_weights` and `craft`.
        arguments: keyword arguments of its constructor.
        workers: number of actors, at least 1.
        ray_address: address of a running Ray cluster, or "auto" for the cluster of this machine. None starts Ray on
            this machine, until `stop`. If this process is already connected to Ray, that connection is used.
        cpus: CPU cores of an actor, at least 1.
        gpus: GPUs of an actor, at least 0. With a fraction, several actors share a GPU.
        replacements: largest number of dead actors that are replaced. None means 3 times `workers`.
        start_timeout: seconds within which all actors must have started.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: if an argument is out of its range.
        RuntimeError: if the actors do not start. Nothing keeps running then.
    """

    def __init__(
        self,
        crafter: type,
        arguments: Mapping[str, Any],
        *,
        workers: int = 1,
        ray_address: str | None = None,
        cpus: int = 1,
        gpus: float = 0.0,
        replacements: int | None = None,
        start_timeout: float = 300.0,
    ) -> None:
        check_integer("workers", workers)
        check_integer("cpus", cpus)
        check_weight("gpus", gpus)
        self._ray = import_ray()
        self._owns_ray = not self._ray.is_initialized()
        self._lock = threading.RLock()  # one thread publishes weights, another hands out batches
        self._arguments = arguments
        self._jobs: dict[Any, _Job] = {}
        self._actors: list[Any] = []
        self._weights: tuple[Any, int] | None = None
        self._replacements = 3 * workers if replacements is None else replacements
        self.replaced = 0
        if self._owns_ray:
            _start_ray(self._ray, ray_address, workers * cpus)
        try:
            self._actor_class = self._ray.remote(num_cpus=cpus, num_gpus=gpus)(crafter)
            self._actors = [self._make_actor() for _ in range(workers)]
            self._await_actors(start_timeout)
        except BaseException:
            self.stop()
            raise

    @property
    def workers(self) -> int:
        """Number of actors that are not known to be dead."""
        return len(self._actors)

    def hand_out(self, ticket: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Gives a batch to the actor that has the fewest batches."""
        with self._lock:
            self._assign(ticket, (images, labels))

    def collect(self) -> list[Crafted]:
        """Returns the batches that were finished since the last call, and replaces dead actors. Does not wait.

        Raises:
            RuntimeError: if no actor is left.
            Exception: if an attack raised it.
        """
        with self._lock:
            if not self._jobs:
                return []
            finished, _ = self._ray.wait(list(self._jobs), num_returns=len(self._jobs), timeout=0)
            jobs = [(self._jobs.pop(reference), reference) for reference in finished]
            crafted = []
            for job, reference in jobs:
                try:
                    result = self._ray.get(reference)
                except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError) as error:
                    self._replace(job.actor, error)
                    if job.ticket is not None:
                        self._assign(job.ticket, job.batch)
                else:
                    if job.ticket is not None:
                        crafted.append(Crafted(job.ticket, *result))
            return crafted

    def publish(self, weights: Sequence[np.ndarray], step: int) -> None:
        """Sends the weights to all actors, through Ray's object store."""
        with self._lock:
            self._weights = (self._ray.put(list(weights)), step)
            for actor in self._actors:
                self._send_weights(actor)

    def stop(self) -> None:
        """Ends the actors, and Ray or the connection to it if this object started it. Unfinished batches are lost."""
        with self._lock:
            if self._ray.is_initialized():
                for actor in self._actors:
                    self._ray.kill(actor)
                if self._owns_ray:
                    self._ray.shutdown()
            self._actors, self._jobs, self._weights = [], {}, None

    def _make_actor(self) -> Any:
        return self._actor_class.remote(**self._arguments)

    def _assign(self, ticket: int, batch: Any) -> None:
        busy = [job.actor for job in self._jobs.values() if job.ticket is not None]
        actor = min(self._actors, key=busy.count)
        self._jobs[actor.craft.remote(ticket, *batch)] = _Job(actor, ticket, batch)

    def _send_weights(self, actor: Any) -> None:
        assert self._weights is not None  # published before
        self._jobs[actor.set_weights.remote(*self._weights)] = _Job(actor)

    def _replace(self, dead: Any, error: Exception) -> None:
        """Replaces a dead actor, unless it was replaced before or no replacement is left."""
        if dead not in self._actors:
            return
        self._actors.remove(dead)
        self._ray.kill(dead)  # Ray may also report an actor as dead that it only cannot reach
        if self.replaced < self._replacements:
            self.replaced += 1
            self._actors.append(self._make_actor())
            if self._weights is not None:
                self._send_weights(self._actors[-1])
        if not self._actors:
            raise RuntimeError(
                f"No worker is left to craft adversarial batches: {self.replaced} that died were replaced, and then "
                f"the last one died. {error}"
            ) from error

    def _await_actors(self, seconds: float) -> None:
        started = [actor.ready.remote() for actor in self._actors]
        try:
            self._ray.get(started, timeout=seconds)
        except self._ray.exceptions.GetTimeoutError as error:
            raise RuntimeError(
                f"{len(started)} workers did not start within {seconds:g} seconds. Ray has the resources "
                f"{self._ray.cluster_resources()}. Free are {self._ray.available_resources()}"
            ) from error
        except self._ray.exceptions.RayError as error:
            raise RuntimeError(f"A worker did not start. {error}") from error


def _start_ray(ray: Any, address: str | None, cpus: int) -> None:
    """Connects to a cluster, or starts Ray on this machine with `cpus` cores."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # by default Ray sends usage statistics to its authors
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(address="local", num_cpus=cpus, **quiet)
    else:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")

"""Real Ray actors, with a crafter that needs no TensorFlow, and one run of training with the real one."""

import os
import signal
import sys
import time

import numpy as np
import pytest

from keras_robust.distribution import CraftingQueue, RayPool

IMAGES, LABELS = np.zeros((2, 2, 2, 1), np.float32), np.array([0, 1])
SECONDS = 60.0

# Ray leaves sockets and files of its own to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


class TinyCrafter:
    """Adds the weight to the images; labels of 13 kill it, and those of 14 are a mistake."""

    def __init__(self, broken=False):
        if broken:
            raise ValueError("broken from the start")
        self.weight, self.step = 0.0, 0

    def ready(self):
        pass

    def set_weights(self, weights, step):
        self.weight, self.step = weights[0], step

    def craft(self, ticket, images, labels):
        if 13 in labels:
            os._exit(1)
        if 14 in labels:
            raise ZeroDivisionError("labels of 14")
        if 15 in labels:
            return np.full_like(images, os.getpid()), self.step
        return images + self.weight + ticket, self.step


def collect(pool, count):
    """Waits for so many results; returns them by ticket."""
    results, end = {}, time.monotonic() + SECONDS
    while len(results) < count and time.monotonic() < end:
        results |= {crafted.ticket: crafted for crafted in pool.collect()}
        time.sleep(0.01)
    assert len(results) == count
    return results


def pid_of(pool):
    pool.hand_out(0, np.zeros(1), np.array([15]))
    return int(collect(pool, 1)[0].images[0])


@pytest.fixture(scope="module")
def ray():
    """One Ray for the tests of this file, which pools then find and leave running."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import it
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture
def make_pool(ray):
    pools = []

    def make(crafter=TinyCrafter, arguments=None, **options):
        pools.append(RayPool(crafter, arguments or {}, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.stop()


def test_weights_that_were_published_reach_all_workers(make_pool):
    """Each of two workers attacks half of the batches, with the weights that were published before."""
    pool = make_pool(workers=2)
    for weight, step in ((0.5, 3), (0.25, 100)):
        pool.publish([np.float32(weight)], step)
        for ticket in range(6):
            pool.hand_out(ticket, IMAGES, LABELS)
        for ticket, crafted in collect(pool, 6).items():
            np.testing.assert_array_equal(crafted.images, IMAGES + weight + ticket)
            assert crafted.crafted_at == step


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(make_pool):
    """The new one has the weights that were published last."""
    pool = make_pool(workers=1)
    pool.publish([np.float32(0.5)], 7)
    pid = pid_of(pool)
    os.kill(pid, signal.SIGKILL)
    for ticket in range(3):
        pool.hand_out(ticket, IMAGES, LABELS)
    results = collect(pool, 3)
    assert [results[ticket].crafted_at for ticket in range(3)] == [7, 7, 7]
    np.testing.assert_array_equal(results[2].images, IMAGES + 2.5)
    assert (pool.replaced, pool.workers) == (1, 1)
    assert pid_of(pool) != pid


def test_where_no_worker_is_left_it_is_an_error(make_pool):
    """A batch that kills whoever attacks it: the first worker and its two replacements. The pool does not wait."""
    pool = make_pool(workers=1, replacements=2)
    pool.publish([np.float32(0)], 0)
    pool.hand_out(0, IMAGES, np.array([13]))
    with pytest.raises(RuntimeError, match="No worker is left to craft adversarial batches: 2 that died were replaced"):
        collect(pool, 1)


def test_with_fewer_workers_it_goes_on(make_pool):
    pool = make_pool(workers=2, replacements=0)
    pool.publish([np.float32(0)], 0)
    os.kill(pid_of(pool), signal.SIGKILL)
    for ticket in range(4):
        pool.hand_out(ticket, IMAGES, LABELS)
    collect(pool, 4)
    assert (pool.replaced, pool.workers) == (0, 1)


def test_errors_of_an_attack_are_not_taken_for_deaths(make_pool):
    pool = make_pool()
    pool.hand_out(0, IMAGES, np.array([14]))
    with pytest.raises(ZeroDivisionError, match="labels of 14"):
        collect(pool, 1)


def test_errors_of_weights_are_seen(make_pool):
    pool = make_pool()
    pool.publish([], 0)
    with pytest.raises(IndexError):
        collect(pool, 1)


def test_workers_that_do_not_start_are_an_error(make_pool):
    with pytest.raises(RuntimeError, match=r"(?s)A worker did not start.*broken from the start"):
        make_pool(arguments={"broken": True})
    with pytest.raises(RuntimeError, match=r"1 workers did not start within 0.5 seconds. Ray has the resources .*CPU"):
        make_pool(cpus=99, start_timeout=0.5)


@pytest.mark.parametrize("options", [{"workers": 0}, {"cpus": 0}, {"gpus": -1}])
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match=f"Received: {next(iter(options))}="):
        RayPool(TinyCrafter, {}, **options)


def test_the_queue_trains_on_every_batch_once_while_workers_die(make_pool):
    """Two batches kill whoever attacks them until the trainer does it, at the end of the stream."""
    pool = make_pool(workers=2, replacements=1000)
    pool.publish([np.float32(1)], 0)
    queue = CraftingQueue(pool, capacity=4, max_staleness=1000)
    stream = iter([(IMAGES, np.array([13 if number in (5, 11) else 100, number + 100])) for number in range(40)])
    seen = []
    for batch, _ in queue.attacked(stream, 0):
        seen.append(int(batch[1][1]) - 100)
        time.sleep(0.05)
    assert sorted(seen) == list(range(40))
    assert pool.replaced > 0

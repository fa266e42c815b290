"""The bounded queue: every batch once, never waiting, never older than allowed."""

import itertools

import numpy as np
import pytest
from fake_pool import FakePool

from keras_robust.distribution import Crafted, CraftingQueue

FAR = 1000


def batches(count=None):
    """Batches of one image whose value is its number."""
    numbers = itertools.count() if count is None else range(count)
    return ((np.full((1, 2, 2, 1), number / FAR, np.float32), np.array([number])) for number in numbers)


def make(delay=1, capacity=4, max_staleness=FAR, **options):
    pool = FakePool(delay)
    pool.publish((), 0)
    return pool, CraftingQueue(pool, capacity=capacity, max_staleness=max_staleness, **options)


def take(queue, count=None, stream=None, step=0):
    """Returns the label and the `Crafted` of each batch."""
    items = itertools.islice(queue.attacked(batches() if stream is None else stream, step), count)
    return [(int(batch[1][0]), crafted) for batch, crafted in items]


def test_while_nothing_is_finished_the_trainer_attacks():
    """Workers that never finish: every batch is the trainer's own, but for those that were handed out."""
    _, queue = make(delay=FAR)
    taken = take(queue, 10)
    assert [crafted for _, crafted in taken] == [None] * 10
    assert queue.own == 10
    assert [label for label, _ in taken] == [0, *range(5, 14)]  # 1 to 4 are with the workers


def test_a_full_queue_hands_nothing_more_out():
    pool, queue = make(delay=FAR, capacity=3)
    for _ in zip(queue.attacked(batches(), 0), range(10), strict=False):
        assert pool.waiting <= 3
    assert pool.handed_out == [0, 1, 2]


def test_finished_batches_are_taken_in_order_of_completion():
    """A batch handed out after step t is finished at t + 1: all but the first were attacked by workers."""
    _, queue = make(delay=1, capacity=2)
    taken = take(queue, 6)
    assert [label for label, _ in taken] == list(range(6))
    assert [crafted.ticket for _, crafted in taken[1:]] == [0, 1, 2, 3, 4]
    assert queue.own == 1
    np.testing.assert_allclose(taken[3][1].images, 3 / FAR + 0.25)


@pytest.mark.parametrize("delay", [1, 2, 3, 7, FAR])
@pytest.mark.parametrize("capacity", [1, 4, 30])
def test_every_batch_is_trained_on_once(delay, capacity):
    pool, queue = make(delay, capacity)
    assert sorted(label for label, _ in take(queue, stream=batches(20))) == list(range(20))
    assert pool.waiting <= capacity


def test_an_empty_stream_ends_at_once():
    assert take(make()[1], stream=batches(0)) == []


def test_attacks_that_are_too_old_are_dropped_and_counted():
    """Weights of step 0 are 5 steps old at step 5: from then on the trainer attacks, until weights are published."""
    pool, queue = make(delay=1, capacity=1, max_staleness=4)
    stream = queue.attacked(batches(), 0)
    taken = [next(stream) for _ in range(8)]
    assert [crafted is not None for _, crafted in taken] == [False] + [True] * 4 + [False] * 3
    assert (queue.dropped, queue.own) == (3, 4)
    pool.publish((), 8)
    taken += [next(stream) for _ in range(2)]
    assert queue.dropped == 3
    assert [crafted.crafted_at for _, crafted in taken[8:]] == [8, 8]
    assert sorted(int(batch[1][0]) for batch, _ in taken) == list(range(10))


def test_nothing_is_handed_out_for_a_look_at_the_first_batch():
    pool, queue = make()
    assert take(queue, 1)[0][0] == 0
    assert pool.handed_out == []


def test_what_an_earlier_iteration_handed_out_is_forgotten():
    """Its results come late, under tickets that are not used again."""
    pool, queue = make(delay=2, first_ticket=7)
    take(queue, 2)
    assert pool.handed_out == [7, 8, 9, 10]
    again = take(queue, 6)
    assert sorted(pool.handed_out) == list(range(7, 7 + len(pool.handed_out)))
    for label, crafted in again:
        if crafted is not None:
            np.testing.assert_allclose(crafted.images, label / FAR + 0.25)


def test_the_staleness_is_counted_from_the_step_where_the_stream_begins():
    """Weights of step 100 in a stream that begins with step 103."""
    pool, queue = make(max_staleness=5)
    pool.publish((), 100)
    taken = take(queue, 6, step=103)
    assert [crafted is None for _, crafted in taken] == [True, False, False, True, True, True]


def test_without_workers_the_error_goes_through():
    class DeadPool(FakePool):
        def collect(self) -> list[Crafted]:
            if self.waiting:
                raise RuntimeError("no worker is left")
            return []

    pool = DeadPool()
    pool.publish((), 0)
    with pytest.raises(RuntimeError, match="no worker is left"):
        take(CraftingQueue(pool, capacity=2, max_staleness=FAR), 5)

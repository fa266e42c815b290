"""The simulation of `benchmarks/asynchronous_simulation.py` against closed forms."""

import pytest
from asynchronous_simulation import Costs, simulate


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_few_workers_share_long_attacks_evenly_with_the_trainer(workers):
    """N workers beside a trainer that attacks too: 1 + n times as fast, as training itself takes no time."""
    assert simulate(Costs(train=1.0, attack=1000.0), workers).speed_up == pytest.approx(1 + workers, rel=3e-3)


@pytest.mark.parametrize(("attack", "workers"), [(0.5, 2), (4.0, 16), (8.0, 16)])
def test_many_workers_leave_the_trainer_its_own_steps(attack, workers):
    """1 + attack / train times as fast; only the first step is the trainer's own attack."""
    outcome = simulate(Costs(train=1.0, attack=attack), workers)
    assert outcome.speed_up == pytest.approx(1 + attack, rel=2e-3)
    assert outcome.own_share < 1e-3


@pytest.mark.parametrize("workers", range(1, 9))
def test_no_speed_up_is_above_both_limits(workers):
    """The attack of the paper: 8 times as long as the training step."""
    outcome = simulate(Costs(train=1.0, attack=8.0), workers)
    assert 0.98 * min(1 + workers, 9) < outcome.speed_up <= min(1 + workers, 9)


def test_transfers_and_weights_are_the_trainers_time():
    """With many workers a step takes 1 + 0.5, and weights 10 more every 100 steps: 9 / 1.6."""
    outcome = simulate(Costs(train=1.0, attack=8.0, transfer=0.5, publish=10.0), 16, publish_every=100)
    assert outcome.speed_up == pytest.approx(9 / 1.6, rel=2e-3)


def test_the_staleness_of_a_queue_that_is_always_full():
    """Workers that are done at once, and weights of every step: three other batches are trained on before each."""
    outcome = simulate(Costs(train=1.0, attack=1e-9), 1, capacity=4, publish_every=1, max_staleness=10)
    assert outcome.staleness == pytest.approx(3, abs=0.01)


def test_no_attack_is_older_than_allowed():
    costs = Costs(train=1.0, attack=8.0)
    assert simulate(costs, 8, publish_every=100).largest_staleness > 105
    strict = simulate(costs, 8, publish_every=100, max_staleness=100)
    assert strict.largest_staleness == 100
    assert strict.own_share > 0

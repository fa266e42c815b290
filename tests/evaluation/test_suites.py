"""Several suites as one: every attack of each, in order, and none lost to another one of its name."""

import pytest

import keras_robust as kr
from keras_robust.attacks import APGD, FAB, Square
from keras_robust.evaluation import AutoAttack, Combined, PaperSuite

BALL = kr.Linf(0.1)


def test_combined_is_all_attacks_in_order():
    paper, auto = PaperSuite(BALL), AutoAttack(BALL)
    both = Combined((paper, auto))
    assert list(both.attacks_for(10)) == [*paper.attacks_for(10), *auto.attacks_for(10)]
    assert list(Combined((auto, paper)).attacks_for(10)) == [*auto.attacks_for(10), *paper.attacks_for(10)]
    assert both.name == "Suite of Kannan et al. (Linf 0.1) + AutoAttack standard (Linf 0.1)"
    assert both.threat_model == BALL
    assert len(both.notes_for(2)) == 2


def test_an_attack_of_two_suites_runs_once():
    """Square, APGD-T and FAB-T are in both versions of AutoAttack."""
    both = Combined((AutoAttack(BALL), AutoAttack(BALL, "plus"))).attacks_for(10)
    assert list(both.values()) == [
        APGD(BALL),
        APGD(BALL, objective="dlr", targeted=9),
        FAB(BALL, targets=9),
        Square(BALL, queries=5000, resc_schedule=False),
        APGD(BALL, restarts=5),
        APGD(BALL, objective="dlr", restarts=5),
        FAB(BALL, restarts=5),
    ]


@pytest.mark.parametrize(
    ("suite", "name"),
    [
        (Combined((PaperSuite(BALL), PaperSuite(BALL, random_target="random"))), r"Step-Rand \(Linf 0.1\)"),
        (PaperSuite(BALL, step_sizes=(0.01, 0.010001)), r"Iter-LL-5 \(Linf 0.1, step 0.01\)"),
        (PaperSuite(BALL, epsilons=(0.01, 0.0100001)), r"Step-LL \(Linf 0.01\)"),
    ],
)
def test_different_attacks_of_one_name_are_refused(suite, name):
    with pytest.raises(ValueError, match=rf"must have different names\. Received: two named '{name}'"):
        suite.attacks_for(10)


@pytest.mark.parametrize("suites", [(), (AutoAttack(BALL), AutoAttack(kr.Linf(0.2)))])
def test_suites_of_one_threat_model(suites):
    with pytest.raises(ValueError, match=r"the same threat model\. Received: suites="):
        Combined(suites)

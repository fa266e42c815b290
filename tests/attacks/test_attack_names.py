"""Attacks that differ in a setting on which robustness depends differ in their names, by which records keep them."""

import dataclasses

import pytest

from keras_robust.attacks import APGD, CW, FAB, PGD, SPSA, HopSkipJump, Square, VirtualAdversarial
from keras_robust.core import L1, L2, Linf, Margin, execution

PGD_CHANGES = {
    "threat_model": [Linf(0.2), L2(0.3), L1(0.3), L1(0.3, quantile=0.5), L1(0.3, quantile=1.0)],
    "steps": [20],
    "step_size": [0.01],
    "objective": ["margin", "dlr", "kl_divergence", Margin(0.0), Margin(50.0)],
    "target": ["random", "random_any", "least_likely", "untargeted_from_prediction", "given"],
    "random_start": ["none", "sign", "normal"],
    "start_radius": [0.1],
    "clean_start_probability": [0.2, 0.5],
    "restarts": [2],
    "compute_dtype": ["bfloat16", "float16", "float32"],
    "eot_iter": [2, 20],
}
CASES = {
    "PGD": (PGD(Linf(0.3)), PGD_CHANGES),
    "PGD from the clean image at times": (
        PGD(Linf(0.3), clean_start_probability=0.2),
        {"clean_start_per": ["batch"], "clean_start_probability": [0.0, 0.3]},
    ),
    "CW": (CW(Linf(0.3)), {"steps": [50], "objective": [Margin(50.0), Margin(None)], "restarts": [3]}),
    "APGD": (
        APGD(L1(3.0)),
        {
            "threat_model": [L1(2.0), L2(3.0)],
            "steps": [50],
            "objective": ["margin", "dlr", Margin(0.0)],
            "targeted": [1, 9],
            "restarts": [2],
            "rho": [0.5],
            "larger_radii": [True],
            "eot_iter": [20],
            "compute_dtype": ["bfloat16"],
        },
    ),
    "FAB": (
        FAB(L2(1.0)),
        {
            "threat_model": [L2(0.5), L1(1.0), Linf(1.0)],
            "steps": [50],
            "targets": [1, 9],
            "alpha_max": [0.2],
            "eta": [1.1],
            "beta": [0.8],
            "restarts": [5],
            "compute_dtype": ["bfloat16"],
        },
    ),
    "Square": (
        Square(Linf(0.3)),
        {
            "threat_model": [Linf(0.2), L2(0.3), L1(0.3)],
            "queries": [1000],
            "p_init": [0.3],
            "resc_schedule": [False],
            "restarts": [2],
            "compute_dtype": ["bfloat16"],
        },
    ),
    "SPSA": (
        SPSA(Linf(0.3)),
        {
            "threat_model": [Linf(0.2), L2(0.3)],
            "steps": [50],
            "samples": [2048],
            "delta": [0.1],
            "learning_rate": [0.1],
            "restarts": [2],
            "compute_dtype": ["bfloat16"],
        },
    ),
    "HopSkipJump": (
        HopSkipJump(L2(1.0)),
        {
            "threat_model": [L2(2.0), Linf(1.0)],
            "queries": [1000],
            "samples": [50],
            "samples_per_pass": [10],
            "compute_dtype": ["bfloat16"],
        },
    ),
    "VirtualAdversarial": (
        VirtualAdversarial(L2(1.0)),
        {
            "threat_model": [L2(2.0), Linf(1.0)],
            "power_iterations": [2],
            "probe": [0.01, 1e-6],
            "compute_dtype": ["bfloat16"],
        },
    ),
}
NOT_SAID = {"PGD": {"clean_start_per"}, "SPSA": {"pairs_per_pass"}}
"""Without clean starts the first changes nothing, and the second is a matter of memory and speed."""


@pytest.mark.parametrize("case", CASES)
def test_every_setting_is_in_the_name(case):
    attack, changes = CASES[case]
    if case == type(attack).__name__:
        fields = {field.name for field in dataclasses.fields(attack)}
        assert changes.keys() | NOT_SAID.get(case, set()) == fields
    others = [dataclasses.replace(attack, **{name: value}) for name, values in changes.items() for value in values]
    names = [attack.name, *(other.name for other in others)]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


@pytest.mark.parametrize("pays", [False, True])
@pytest.mark.parametrize("case", [case for case in CASES if "clean" not in case and case != "CW"])
def test_the_name_says_which_dtype_the_machine_has_chosen(case, pays, monkeypatch):
    """The one of the attack with that dtype, so that records of both are compared."""
    monkeypatch.setattr(execution, "bfloat16_pays", lambda: pays)
    attack, _ = CASES[case]
    automatic, chosen = (
        dataclasses.replace(attack, compute_dtype=dtype) for dtype in ("auto", "bfloat16" if pays else "float32")
    )
    assert automatic.name == chosen.name != attack.name
    assert automatic.get_config()["compute_dtype"] == "auto"  # resolved anew on the machine that loads it

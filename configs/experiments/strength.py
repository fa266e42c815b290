"""The table and the figures of Bhat et al. (2018), Towards Efficient Methods for Training Robust Deep Neural Networks.

Command:  python launch/reproduce.py --experiment=strength_table1 --scale=small --workdir=runs/papers \
              --data_dir=DATA_DIR
"""

PAPER = "Bhat et al. (2018), "
PUBLISHED = {
    1: {1: 98.55, 4: 48.63, 8: 27.16, 128: 28.36},
    4: {1: 57.34, 4: 99.98, 8: 54.18, 128: 60.31},
    8: {1: 96.40, 4: 97.27, 8: 93.88, 128: 94.26},
    128: {1: 96.28, 4: 96.69, 8: 93.92, 128: 91.70},
}
SMALL = {
    1: {"config": "mnist_methods:pgd", "attack.steps": 1, "steps_per_epoch": 700},
    4: {"config": "mnist_methods:pgd", "attack.steps": 4, "steps_per_epoch": 470},
    8: "mnist_methods:pgd",
    16: {"config": "mnist_methods:pgd", "attack.steps": 16, "steps_per_epoch": 195},
}
"""Small models by number of attack steps. Their numbers of batches take as long as those of the model with 8 steps."""
STEPS = {"paper": (1, 4, 8, 128), "small": tuple(SMALL)}
ALL_STEPS = (1, 4, 8, 16, 128)
SMALL_STALE = {staleness: {"config": f"mnist_small_stale:{staleness}", "epochs": 12} for staleness in (0, 8, 32, 64)}
"""Small models by staleness."""
STALENESS = tuple(2**power for power in range(11))
"""Staleness of the paper's models."""
PGD8 = {"name": "pgd", "epsilon": 0.3, "steps": 8}


def _scales(steps):
    at = [scale for scale, values in STEPS.items() if steps in values]
    return [*at, "smoke"] if "paper" in at else at


def _trained_with(steps):
    """Returns the models that are trained with a number of attack steps, by scale."""
    models = {}
    if steps in STEPS["paper"]:
        models["paper"] = f"mnist_strength:{steps}"
    if steps in SMALL:
        models["small"] = SMALL[steps]
    return models


def _attacked_with(steps):
    return {"attack": PGD8 | {"steps": steps}, "scales": _scales(steps), "x": steps}


def _stale_rows(published):
    rows = {}
    for staleness in sorted({*STALENESS, *SMALL_STALE}):
        models = {}
        if staleness in STALENESS:
            models["paper"] = f"mnist_strength:8,{staleness}"
        if staleness in SMALL_STALE:
            models["small"] = SMALL_STALE[staleness]
        row = {"model": models, "series": "PGD-8 trained", "x": staleness}
        rows[f"s = {staleness}"] = row | {"published": published.get(staleness, {})}
    return rows


STALE = (
    "Here a staleness of 32 is already too much, and 8 costs 23 points. The training is five minutes, 888 updates on "
    "embedded digits instead of 60,000, with a learning rate of 1e-3; the paper does not give its rate. [The "
    "plots](methods.md#staleness) show a training of 2,220 updates."
)
STALE_COLUMNS = {
    "Stale, training images": {"measure": "history/robust_accuracy"},
    "Fresh, training images": {"measure": "history/fresh_robust_accuracy"},
}

DIGITS = "The same for embedded digits and steps 1, 4 and 8: [transfer matrix](evaluation.md#transfer-matrix)."
FIVE_MINUTES = (
    "One run each of about five minutes, on the first 1,000 test images: 3,500, 2,350, 1,600 and 975 updates of 64 "
    "images with 1, 4, 8 and 16 steps, instead of 60,000 of 128."
)
NO_TRANSFER = (
    "The paper's networks of 1 and 4 steps withstand their own attack, but not attacks made on another network. The "
    "networks here withstand both. The network of 1 step is nevertheless not robust: 8 steps made on itself leave "
    "0 %."
)
ONE_STEP = (
    "The network of 1 step has overfitted to this step, as in the paper. The network of 4 steps has not: it "
    "withstands 16 steps as well as 8. The paper says that its own network of 4 steps is not robust to all of them."
)

ABOUT = "The published numbers come from the paper's text, where they are approximate. The figure prints none."

EXPERIMENTS = {
    "strength_table1": {
        "title": "transfer between networks trained with attacks of different strength",
        "source": PAPER + "table 1",
        "columns": {
            f"From {steps}": {"attack": PGD8, "source": _trained_with(steps), "scales": _scales(steps)}
            for steps in ALL_STEPS
        },
        "rows": {
            f"Trained and attacked with {steps} steps": {
                "model": _trained_with(steps),
                "attack": {"steps": steps},
                "scales": _scales(steps),
                "published": {f"From {source}": value for source, value in PUBLISHED.get(steps, {}).items()},
            }
            for steps in ALL_STEPS
        },
        "remarks": {"paper": DIGITS, "small": f"{FIVE_MINUTES} {NO_TRANSFER} {DIGITS}"},
    },
    "strength_figures3_4": {
        "title": "robust accuracy by the strength of the attack in training and in the test, at the end of training",
        "source": PAPER + "figure 4, and figure 3 in accuracy instead of loss",
        "columns": {
            "Training images, same attack": {"measure": "history/robust_accuracy"},
            **{f"PGD-{steps}": _attacked_with(steps) for steps in ALL_STEPS},
        },
        "rows": {
            f"Trained with {steps} steps": {"model": _trained_with(steps), "scales": _scales(steps)}
            for steps in ALL_STEPS
        },
        "figure": {"x": "columns", "label": "attack steps in the test", "log": True},
        "remarks": {"small": f"{FIVE_MINUTES} {ONE_STEP}"},
    },
    "strength_figure5": {
        "title": "stale and fresh robust accuracy at the end of training",
        "source": PAPER + "figure 5",
        "columns": STALE_COLUMNS,
        "rows": {
            f"s = {staleness}": {"model": {"paper": f"mnist_strength:8,{staleness}", "small": SMALL_STALE[staleness]}}
            for staleness in (32, 64)
        },
        "remarks": {
            "small": "In the paper, fresh accuracy follows stale accuracy at 32, and is much lower at 64. " + STALE
        },
    },
    "strength_figure6": {
        "title": "how an image is attacked in the course of training, with and without staleness",
        "source": PAPER + "figure 6",
        "columns": {},
        "rows": {},
        "remarks": {
            "paper": "`benchmarks/staleness.py` draws it for embedded digits: [staleness](methods.md#staleness)."
        },
    },
    "strength_figure7": {
        "title": "staleness 64 after 300,000 updates",
        "source": PAPER + "figure 7",
        "columns": STALE_COLUMNS,
        "rows": {"s = 64": {"model": {"paper": {"config": "mnist_strength:8,64", "epochs": 300}}}},
        "remarks": {"paper": "In the paper, fresh accuracy rises to stale accuracy half-way."},
    },
    "strength_figure8": {
        "title": "robust and natural accuracy by staleness",
        "source": PAPER + "figure 8",
        "columns": {"PGD-8": {"attack": PGD8}, "Natural": {"attack": PGD8, "measure": "clean_accuracy"}},
        "rows": _stale_rows(
            {staleness: {"PGD-8": 90} for staleness in (1, 2, 4, 8, 16)}
            | {32: {"PGD-8": 90, "Natural": 98}, 64: {"PGD-8": 5}}
        ),
        "figure": {"x": "rows", "columns": ["PGD-8", "Natural"], "label": "staleness (updates)"},
        "remarks": {"paper": ABOUT, "small": f"{ABOUT} {STALE}"},
    },
    "strength_figure9": {
        "title": "the speed-up by workers that attack",
        "source": PAPER + "figure 9",
        "columns": {},
        "rows": {},
        "remarks": {
            "paper": "[Asynchronous generation](asynchronous.md#when-it-pays) has a simulation from measured times, "
            "and the numbers of the paper's text."
        },
    },
}

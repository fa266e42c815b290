"""The tables and figures of Shafahi et al. (2019), Adversarial Training for Free!

Command:  python launch/reproduce.py --experiment=free_table1 --scale=small --workdir=runs/papers --data_dir=DATA_DIR
"""

PAPER = "Shafahi et al. (2019), "
EPSILON = 8 / 255
PGD20 = {"name": "pgd", "epsilon": EPSILON, "steps": 20, "step_size": 2 / 255}
PGD100 = PGD20 | {"steps": 100}
CW100 = {"name": "cw", "epsilon": EPSILON, "steps": 100, "step_size": 2 / 255}
CLEAN = {"attack": PGD20, "measure": "clean_accuracy"}
IMAGENET_SPLIT = {"paper": "validation"}

TABLE1_COLUMNS = {
    "Natural images": CLEAN,
    "PGD-20": {"attack": PGD20},
    "PGD-100": {"attack": PGD100},
    "CW-100": {"attack": CW100},
    "PGD-20, 10 restarts": {"attack": PGD20 | {"restarts": 10}},
    "AutoAttack, 300 images": {"attack": PGD20, "suite": "autoattack", "split": "test[:300]", "scales": ["small"]},
    "Training (minutes)": {"measure": "minutes"},
}
AUTOATTACK_OF_FREE = "For the authors' model with 86.11 % clean accuracy, AutoAttack leaves 41.5 % (RobustBench)."
TABLE1_TITLES = [title for title in TABLE1_COLUMNS if not title.startswith("AutoAttack")]
TABLE2_TITLES = ["Natural images", "PGD-20", "PGD-100", "Training (minutes)"]


def _cifar(variant, titles, *numbers, small=True, dataset=""):
    models = {"paper": f"cifar_free:{variant}{dataset}"}
    if small:
        models["small"] = f"cifar_free:{variant},small"
    return {"model": models, "published": dict(zip(titles, numbers, strict=True))}


def _cifar100(variant, *numbers):
    return _cifar(variant, TABLE2_TITLES, *numbers, small=False, dataset=",cifar100")


def _imagenet_columns(epsilon):
    """Returns columns for attacks of radius `epsilon` / 255, that of training."""
    pgd = {"name": "pgd", "epsilon": epsilon / 255, "step_size": 1 / 255}
    columns = {f"PGD-{steps}": {"attack": pgd | {"steps": steps}} for steps in (10, 50, 100)}
    return {"Natural images": {"attack": pgd | {"steps": 10}, "measure": "clean_accuracy"}, **columns}


def _imagenet(variant, *numbers):
    titles = ("Natural images", "PGD-10", "PGD-50", "PGD-100", "Training (minutes)")
    return {
        "model": {"paper": f"imagenet_free:{variant}"},
        "published": dict(zip(titles, numbers, strict=False)),
    }


def _replay_rows():
    """Returns rows of natural training with m replays, and of 7-PGD training, with which the paper compares it."""
    rows = {}
    for dataset, suffix, natural, attacked in (
        ("CIFAR-10", "", 95.01, 87.25),
        ("CIFAR-100", ",cifar100", 78.84, 59.87),
    ):
        for replays in (1, 2, 4, 8, 16):
            rows[f"{dataset}, m = {replays}"] = {
                "model": {"paper": f"cifar_free:natural,{replays}{suffix}"},
                "published": {"Natural images": natural} if replays == 1 else {},
                "series": dataset,
                "x": replays,
            }
        rows[f"{dataset}, 7-PGD trained"] = {
            "model": {"paper": f"cifar_free:pgd,7{suffix}"},
            "published": {"Natural images": attacked},
        }
    return rows


# (replays, epsilon): natural images, PGD-10, PGD-100.
PUBLISHED_OF_RADII = {
    (1, 2): (76.038, 0.166, 0.036),
    (2, 2): (71.210, 37.012, 36.250),
    (4, 2): (64.446, 43.522, 43.404),
    (6, 2): (60.642, 41.996, 41.892),
    (8, 2): (58.116, 40.044, 39.996),
    (4, 4): (60.206, 32.768, 31.816),
}


def _radius_rows():
    rows = {}
    titles = ("Natural images", "PGD-10", "PGD-100")
    for replays in (1, 2, 4, 6, 8):
        name = "natural" if replays == 1 else f"m = {replays}"
        for epsilon in range(2, 8):
            # A naturally trained network is the same for every epsilon.
            model = {"paper": f"imagenet_free:{replays},{epsilon if replays > 1 else 2}"}
            rows[f"{name}, epsilon {epsilon}"] = {
                "model": model,
                "attack": {"epsilon": epsilon / 255},
                "published": dict(zip(titles, PUBLISHED_OF_RADII.get((replays, epsilon), ()), strict=False)),
                "series": name,
                "x": epsilon,
            }
    return rows


EXPERIMENTS = {
    "free_table1": {
        "title": "free adversarial training on CIFAR-10",
        "source": PAPER + "table 1",
        "columns": TABLE1_COLUMNS,
        "rows": {
            "Natural": _cifar("natural,1", TABLE1_TITLES, 95.01, 0.0, 0.0, 0.0, 0.0, 780),
            "Free m = 2": _cifar("free,2", TABLE1_TITLES, 91.45, 33.92, 33.20, 34.57, 33.41, 816),
            "Free m = 4": _cifar("free,4", TABLE1_TITLES, 87.83, 41.15, 40.35, 41.96, 40.73, 800),
            "Free m = 8": _cifar("free,8", TABLE1_TITLES, 85.96, 46.82, 46.19, 46.60, 46.33, 785),
            "Free m = 10": _cifar("free,10", TABLE1_TITLES, 83.94, 46.31, 45.79, 45.86, 45.94, 785),
            "7-PGD trained": _cifar("pgd,7", TABLE1_TITLES, 87.25, 45.84, 45.29, 46.52, 45.53, 5418),
        },
        "remarks": {
            "paper": AUTOATTACK_OF_FREE,
            "small": "A ResNet-8, one run each, on the first 1,000 test images. As in the paper, clean accuracy "
            "falls with m, and m = 2 is the least robust of the free networks. Unlike in the paper, 7-PGD training "
            "has the same few minutes as the others: 340 updates instead of 2,000, which is too few. No network is "
            "fully trained. Robust accuracies of m = 4 to 10 differ by less than their sampling error. "
            f"{AUTOATTACK_OF_FREE}",
        },
    },
    "free_table2": {
        "title": "free adversarial training on CIFAR-100",
        "source": PAPER + "table 2",
        "columns": {title: TABLE1_COLUMNS[title] for title in TABLE2_TITLES},
        "rows": {
            "Natural": _cifar100("natural,1", 78.84, 0.0, 0.0, 811),
            "Free m = 2": _cifar100("free,2", 69.20, 15.37, 14.86, 816),
            "Free m = 4": _cifar100("free,4", 65.28, 20.64, 20.15, 767),
            "Free m = 6": _cifar100("free,6", 64.87, 23.68, 23.18, 791),
            "Free m = 8": _cifar100("free,8", 62.13, 25.88, 25.58, 780),
            "Free m = 10": _cifar100("free,10", 59.27, 25.15, 24.88, 776),
            "2-PGD trained": _cifar100("pgd,2", 67.94, 17.08, 16.50, 2053),
            "7-PGD trained": _cifar100("pgd,7", 59.87, 22.76, 22.52, 5157),
        },
    },
    "free_table3": {
        "title": "free adversarial training on ImageNet, epsilon 2/255",
        "source": PAPER + "table 3",
        "split": IMAGENET_SPLIT,
        "columns": _imagenet_columns(2),
        "rows": {
            "Natural": _imagenet("1,2", 76.038, 0.166, 0.052, 0.036),
            "Free m = 2": _imagenet("2,2", 71.210, 37.012, 36.340, 36.250),
            "Free m = 4": _imagenet("4,2", 64.446, 43.522, 43.392, 43.404),
            "Free m = 6": _imagenet("6,2", 60.642, 41.996, 41.900, 41.892),
            "Free m = 8": _imagenet("8,2", 58.116, 40.044, 40.008, 39.996),
        },
    },
    "free_table4": {
        "title": "free and 2-PGD training on ImageNet, epsilon 4/255",
        "source": PAPER + "table 4",
        "split": IMAGENET_SPLIT,
        "columns": _imagenet_columns(4) | {"Training (minutes)": {"measure": "minutes"}},
        "rows": {
            "ResNet-50, free m = 4": _imagenet("4,4", 60.206, 32.768, 31.878, 31.816, 3016),
            "ResNet-50, 2-PGD trained": _imagenet("pgd,4", 64.134, 37.172, 36.352, 36.316, 10435),
        },
    },
    "free_table5": {
        "title": "depth under free training on ImageNet, m = 4, epsilon 4/255",
        "source": PAPER + "table 5",
        "split": IMAGENET_SPLIT,
        "columns": _imagenet_columns(4),
        "rows": {
            "ResNet-50": _imagenet("4,4", 60.206, 32.768, 31.878, 31.816),
            "ResNet-101": _imagenet("4,4,101", 63.340, 35.388, 34.402, 34.328),
            "ResNet-152": _imagenet("4,4,152", 64.446, 36.992, 36.044, 35.994),
        },
    },
    "free_figure1": {
        "title": "natural training with replayed batches",
        "source": PAPER + "figure 1",
        "columns": {"Natural images": CLEAN},
        "rows": _replay_rows(),
        "figure": {"x": "rows", "columns": ["Natural images"], "label": "replays m", "log": True},
    },
    "free_figure2": {
        "title": "images of large perturbations: BIM-50, epsilon 30/255, step 2/255",
        "source": PAPER + "figure 2",
        "columns": {
            "Images": {
                "attack": {"name": "bim", "epsilon": 30 / 255, "steps": 50, "step_size": 2 / 255},
                "suite": "images",
                "measure": "report",
                "split": "test[-9:]",
            }
        },
        "rows": {"Free m = 8": _cifar("free,8", ()), "7-PGD trained": _cifar("pgd,7", ())},
    },
    "free_figure3": {
        "title": "loss surfaces",
        "source": PAPER + "figure 3",
        "columns": {"Surface": {"attack": PGD20, "suite": "surface", "measure": "report", "split": "test[:2]"}},
        "rows": {"Free m = 8": _cifar("free,8", ()), "7-PGD trained": _cifar("pgd,7", ())},
    },
    "free_figure4": {
        "title": "the bound of the perturbation on ImageNet",
        "source": PAPER + "figure 4",
        "split": IMAGENET_SPLIT,
        "columns": {name: column for name, column in _imagenet_columns(2).items() if name != "PGD-50"},
        "rows": _radius_rows(),
        "figure": {"x": "rows", "columns": ["Natural images", "PGD-100"], "label": "epsilon (of 255)"},
        "remarks": {
            "paper": "The published numbers are those of tables 3 and 4. The appendix of the paper has the others."
        },
    },
}

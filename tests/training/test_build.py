"""The names of configs are those of the objects that they stand for, which get the options of their section."""

import pytest
import tensorflow as tf
from tiny_run import TINY

import keras_robust as kr
from keras_robust.training import build, config

LINF, L2, L1 = kr.Linf(0.3), kr.L2(0.3), kr.L1(0.3)
REGISTRIES = {
    "norm": build.NORMS,
    "attack": build.ATTACKS,
    "classifier": build.CLASSIFIERS,
    "method": build.METHODS,
    "optimizer": build.OPTIMIZERS,
}


@pytest.mark.parametrize("section", REGISTRIES)
def test_a_name_is_that_of_its_object(section):
    """Up to capitals and underscores: "tensorflow1_rmsprop" is `TensorFlow1RMSprop`."""
    names = {name.replace("_", ""): thing.__name__.lower() for name, thing in REGISTRIES[section].items()}
    assert names == {name: name for name in names}


ATTACKS = {
    "pgd": ({"steps": 3, "eot_iter": 2}, kr.attacks.PGD(LINF, steps=3, eot_iter=2)),
    "fgsm": (
        {"norm": "l2", "eot_iter": 5},
        kr.attacks.PGD(L2, steps=1, step_size=0.3, random_start="none", eot_iter=5),
    ),
    "rfgsm": ({}, kr.attacks.PGD(LINF, steps=1, step_size=0.15, random_start="sign", start_radius=0.15)),
    "bim": ({"steps": 4}, kr.attacks.PGD(LINF, steps=4, step_size=0.075, random_start="none")),
    "cw": (
        {"kappa": 50.0, "eot_iter": 3},
        kr.attacks.PGD(LINF, steps=100, objective=kr.core.Margin(50.0), eot_iter=3),
    ),
    "apgd": ({"norm": "l1", "targeted": 9}, kr.attacks.APGD(L1, targeted=9)),
    "fab": ({"bounds": (0, 2)}, kr.attacks.FAB(kr.Linf(0.3, bounds=(0, 2)))),
    "square": ({"queries": 7}, kr.attacks.Square(LINF, queries=7)),
    "spsa": ({"samples": 2}, kr.attacks.SPSA(LINF, samples=2)),
    "hop_skip_jump": ({"queries": 9}, kr.attacks.HopSkipJump(LINF, queries=9)),
    "virtual_adversarial": ({"norm": "l2", "probe": 0.01}, kr.attacks.VirtualAdversarial(L2, probe=0.01)),
}


def test_every_attack_is_built():
    assert set(ATTACKS) == set(build.ATTACKS)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_section_is_an_attack(name):
    options, expected = ATTACKS[name]
    assert build.build_attack({"name": name, "epsilon": 0.3, **options}) == expected


SCHEDULES = {
    "one_cycle": ({"peak": 2.0}, kr.optimizers.one_cycle(100, peak=2.0)),
    "cyclic": ({"peak": 2.0}, kr.optimizers.cyclic(100, peak=2.0)),
    "staircase_decay": ({"initial": 0.2}, kr.optimizers.staircase_decay(10, initial=0.2)),
    "step_decay": ({"initial": 0.2, "epochs": (3, 5)}, kr.optimizers.step_decay(10, initial=0.2, epochs=(3, 5))),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_section_is_a_schedule(name):
    """Of 100 updates, ten per epoch."""
    options, expected = SCHEDULES[name]
    optimizer = build.build_optimizer({"name": "sgd", "learning_rate": {"name": name, **options}}, 10, 100)
    rates = []
    for step in (0, 20, 40, 70):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    assert rates == pytest.approx([float(expected(step)) for step in (0, 20, 40, 70)])


@pytest.mark.parametrize("deterministic", [False, True])
def test_no_clock_decides_in_a_deterministic_run(deterministic):
    """It would have to decide the same each time; other attacks keep their dtype."""
    automatic = {"name": "fgsm", "epsilon": 0.3, "compute_dtype": "auto"}
    given = TINY | {
        "method": {"name": "adversarial_training"},
        "attack": automatic,
        "validation_attack": automatic,
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "epochs": 1,
        "deterministic": deterministic,
    }
    model = build.build_model(config.resolve(given), 3, 3)
    expected = "float32" if deterministic else "auto"
    assert [model.attack.compute_dtype, model.validation_attack.compute_dtype] == [expected] * 2
    half = config.resolve(given | {"attack": automatic | {"compute_dtype": "bfloat16"}})
    assert build.build_model(half, 3, 3).attack.compute_dtype == "bfloat16"


@pytest.mark.parametrize("name", ["natural_training", "clean_logit_pairing", "logit_squeezing", "mixup"])
def test_a_method_without_an_attack_has_bounds(name):
    given = {**config.DEFAULTS, "method": {"name": name, "bounds": [0, 255]}, "classifier": "lenet"}
    given["optimizer"] = {"name": "sgd", "learning_rate": 0.1}
    assert build.build_model(given, 10, 100).bounds == (0.0, 255.0)


@pytest.mark.parametrize(
    ("classifier", "image_size", "shape"),
    [
        ({"name": "resnet20"}, [24, 32], (24, 32, 3)),
        ({"name": "lenet"}, 32, (32, 32, 1)),
        ({"name": "lenet"}, 0, (28, 28, 1)),
        ({"name": "lenet", "input_shape": [16, 24, 3]}, [16, 24], (16, 24, 3)),
    ],
)
def test_a_classifier_takes_the_images_of_its_config(classifier, image_size, shape):
    """Height, width; a section that says what the classifier takes is left as it is."""
    given = {"method": {"name": "natural_training"}, "optimizer": {"name": "adam", "learning_rate": 1e-3}, "epochs": 1}
    resolved = config.resolve(TINY | given | {"classifier": classifier, "image_size": image_size})
    assert build.build_model(resolved, 3, 3).classifier.input_shape == (None, *shape)


SMALL = {
    "cifar_resnet": {"depth": 8},
    "resnet": {"depth": 18},
    "revnet": {"depth": 14},
    "wide_resnet": {"depth": 10, "width": 1},
}


@pytest.mark.parametrize("name", build.CLASSIFIERS)
def test_no_classifier_needs_square_images(name):
    """Through every layer: one logit per class, and a gradient in the images."""
    shape = (80, 112, 3) if name == "inception_v3" else (24, 40, 3)
    classifier = build.build_classifier({"name": name, "input_shape": shape, "num_classes": 5, **SMALL.get(name, {})})
    images = tf.random.stateless_uniform((2, *shape), (1, 2))
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = classifier(images, training=False)
    assert logits.shape == (2, 5)
    assert tape.gradient(logits, images).shape == (2, *shape)

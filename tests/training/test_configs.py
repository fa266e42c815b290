"""The config files: every variant is complete, names what there is, and takes a step, also under XLA."""

import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.tools.reproduction import load_config, load_experiments, smoke_config
from keras_robust.training import build, config

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
VARIANTS = {
    "image_folder": ["10"],
    "mnist_alp": ["alp", "mpgd", "pgd"],
    "mnist_small_alp": [],
    "mnist_small_pgd": ["4"],
    "mnist_small_stale": ["0", "8"],
}
IN_EXPERIMENTS = {
    *("cifar_free", "imagenet_alp", "imagenet_free", "imagenet_scale"),
    *("mnist_clean_pairing", "mnist_strength", "svhn_alp"),
}
"""Their variants are those of the papers' experiments."""


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_configs():
    variants = {**VARIANTS, "mnist_methods": list(load("mnist_methods").VARIANTS)}
    return [(name, variant) for name, values in variants.items() for variant in values or [None]]


def configs_of_experiments():
    """Returns every config of every experiment by the name of its model."""
    found = {}
    for experiment in load_experiments(FOLDER).values():
        for scale in filter(experiment.runs_at, ("paper", "small")):
            parts = experiment.at(scale)
            models = [row.model_at(scale) for row in parts.rows] + [column.source_at(scale) for column in parts.columns]
            found |= {model.name: load_config(FOLDER, model) for model in models if model}
    return found


def unique(configs):
    """Returns one of those that are the same, by name."""
    contents = {json.dumps(config, sort_keys=True): name for name, config in reversed(configs.items())}
    return {name: configs[name] for name in sorted(contents.values())}


EXPERIMENT_CONFIGS = configs_of_experiments()
CLASSIFIERS = unique({name: config["classifier"] for name, config in EXPERIMENT_CONFIGS.items()})
STEPS = unique({name: smoke_config(config) for name, config in EXPERIMENT_CONFIGS.items()})


def test_every_file_is_tested():
    tested = {name for name, _ in all_configs()} | {"mnist_ensemble"} | IN_EXPERIMENTS
    assert {path.stem for path in FOLDER.glob("*.py")} == tested
    assert {name.partition("-")[0] for name in EXPERIMENT_CONFIGS} >= IN_EXPERIMENTS


def test_the_configs_of_experiments_are_accepted():
    """No field is misspelt or out of range; small ones are of data that a laptop has."""
    for name, sections in EXPERIMENT_CONFIGS.items():
        resolved = config.resolve(sections)
        assert "small" not in name or resolved["dataset"] in ("mnist_small", "cifar10"), name


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_of_an_experiment_builds(name):
    """At the size of the paper, up to ResNet-638."""
    sections = EXPERIMENT_CONFIGS[name]
    classifier = build.build_classifier(sections["classifier"])
    classes = {"cifar100": 100}.get(sections["dataset"], 1000 if "imagenet" in sections["dataset"] else 10)
    assert classifier.output_shape == (None, classes)


@pytest.mark.slow
@pytest.mark.xla
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")  # one branch of mixture batch normalisation
@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_an_experiment_compiles(name):
    """With its method, normalisation, attack and optimizer, on a small network; the loss is that without XLA."""
    resolved = config.resolve(STEPS[name])
    images = np.random.default_rng(0).uniform(size=(4, 28, 28, 1)).astype("float32")
    labels = np.arange(4)
    if build.needs_one_hot_labels(resolved):
        labels = keras.ops.one_hot(labels, 10)
    fast = resolved["method"]["name"] == "fast_adversarial_training"  # it wants to see whether it overfits
    options = {"validation_data": (images, labels)} if fast else {}
    losses = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = build.build_model(resolved, 10, 100)
        model.jit_compile = jit_compile
        losses.append(model.fit(images, labels, batch_size=4, shuffle=False, verbose=0, **options).history["loss"][0])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def test_the_ensemble_loads_its_static_models(tmp_path):
    """A plain classifier and the one inside a method; a missing file is named."""
    kr.architectures.LeNet().save(tmp_path / "plain.keras")
    kr.NaturalTraining(kr.architectures.LeNet()).save(tmp_path / "method.keras")
    get_config = load("mnist_ensemble").get_config
    model = build.build_model(config.resolve(get_config(f"{tmp_path}/plain.keras,{tmp_path}/method.keras")), 10, 100)
    assert [source.name for source in model.source_models] == ["lenet", "lenet"]
    assert not any(source.trainable for source in model.source_models)
    with pytest.raises(ValueError, match="Received: 'nowhere"):
        build.build_model(config.resolve(get_config("nowhere.keras")), 10, 100)


@pytest.mark.parametrize(("name", "variant"), all_configs())
def test_a_config_builds(name, variant):
    get_config = load(name).get_config
    resolved = config.resolve(get_config() if variant is None else get_config(variant))
    model = build.build_model(resolved, 10, 100)
    assert model.classifier.output_shape[-1] == 10
    attack = resolved["attack"] or {}
    assert attack.get("compute_dtype") in (None, "auto")  # bfloat16 is several times slower on most laptops


@pytest.mark.parametrize(
    "name",
    sorted({"image_folder", "mnist_alp", "mnist_methods", "mnist_small_pgd", "mnist_small_stale"} | IN_EXPERIMENTS),
)
def test_an_unknown_variant_is_named(name):
    with pytest.raises(ValueError, match="Received: variant='-1'"):
        load(name).get_config("-1")


@pytest.mark.parametrize("variant", ["clean0,pgd", "clean0,small,pgd10", "clean0,depth50,small", "alp_original,pgd30"])
def test_a_part_that_would_change_nothing_is_refused(variant):
    with pytest.raises(ValueError, match=f"Received: variant='{variant}'"):
        load("imagenet_scale").get_config(variant)


@pytest.mark.parametrize("replays", [1, 2, 4, 8, 10, 16])
def test_free_training_takes_80000_updates_however_many_replays(replays):
    """Shafahi et al. (2019): the rate is divided by 10 after 40,000 and 60,000, with 382 batches in a pass."""
    free = load("cifar_free").get_config(f"free,{replays}")
    assert free.steps_per_epoch * free.epochs * replays == pytest.approx(80_000, rel=0.01)
    optimizer = build.build_optimizer(free.optimizer.to_dict(), 382 * replays, 80_000)
    rates = []
    for update in (0, 39_990, 40_010, 59_990, 60_010):
        optimizer.iterations.assign(update)
        rates.append(float(optimizer.learning_rate))
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize(
    ("name", "variant", "rate"),
    [
        ("imagenet_alp", "alp", 50 * 0.045),
        ("imagenet_alp", "code", 50 * 0.045),
        ("imagenet_scale", "clean0", 16 * 0.1),
        ("imagenet_scale", "alp_original", 6 * 0.045),
    ],
)
def test_rates_of_many_workers(name, variant, rate):
    """Kannan et al. (2018) multiply theirs with the number of workers, Xie & Yuille (2020) with batch / 256."""
    config = load(name).get_config(variant)
    scale = config.batch_size / config.rates_for_batch_size
    assert config.optimizer.learning_rate.initial * scale == pytest.approx(rate)

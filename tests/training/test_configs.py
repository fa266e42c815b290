"""The config files: every variant is complete and names what there is."""

import importlib.util
import pathlib

import pytest

import keras_robust as kr
from keras_robust.training import build, config

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
VARIANTS = {
    "cifar10_mixture_batch_norm": [],
    "imagenet_resnet152": ["pgd", "adversarial_logit_pairing", "mixture_batch_norm"],
    "mnist_alp": ["paper", "fast"],
    "mnist_mpgd": ["paper", "fast"],
    "mnist_pgd": ["paper", "fast"],
    "mnist_small_alp": [],
    "mnist_small_pgd": ["4"],
    "mnist_small_stale": ["0", "8"],
}

CLASSES = {"imagenet_resnet152": 1000}
"""Where they are not 10."""
SMALLER = {"imagenet_resnet152": {"depth": 18}}
"""In the place of classifiers that are slow to build."""


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_configs():
    variants = {**VARIANTS, "mnist_methods": list(load("mnist_methods").VARIANTS)}
    return [(name, variant) for name, values in variants.items() for variant in values or [None]]


def test_every_file_is_tested():
    tested = {name for name, _ in all_configs()} | {"mnist_ensemble"}
    assert {path.stem for path in FOLDER.glob("*.py")} == tested


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
    resolved["classifier"] |= SMALLER.get(name, {})
    model = build.build_model(resolved, 10, 100)
    assert isinstance(model, kr.RobustModel)
    assert model.classifier.output_shape[-1] == CLASSES.get(name, 10)


@pytest.mark.parametrize(
    "name", ["imagenet_resnet152", "mnist_alp", "mnist_methods", "mnist_small_pgd", "mnist_small_stale"]
)
def test_an_unknown_variant_is_named(name):
    with pytest.raises(ValueError, match="Received: variant='-1'"):
        load(name).get_config("-1")

"""From config to objects: the one place where a name in a config becomes a class.

A section of a config is a dict with a `name` and the arguments of what it names:
`config.attack = dict(name="pgd", norm="linf", epsilon=0.3, steps=40)`.
"""

import contextlib
import inspect
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from keras_robust import architectures, attacks, core, methods, optimizers
from keras_robust.attacks import Attack
from keras_robust.core import ThreatModel
from keras_robust.core.serialization import replace_unchecked
from keras_robust.data.source import ImageSize, height_and_width
from keras_robust.evaluation.subject import classifier_of

NORMS: dict[str, Callable[..., ThreatModel]] = {"linf": core.Linf, "l2": core.L2, "l1": core.L1}
ATTACKS: dict[str, Callable[..., Attack]] = {
    "pgd": attacks.PGD,
    "fgsm": attacks.FGSM,
    "rfgsm": attacks.RFGSM,
    "bim": attacks.BIM,
    "cw": attacks.CW,
    "apgd": attacks.APGD,
    "fab": attacks.FAB,
    "square": attacks.Square,
    "spsa": attacks.SPSA,
    "hop_skip_jump": attacks.HopSkipJump,
    "virtual_adversarial": attacks.VirtualAdversarial,
}
CLASSIFIERS: dict[str, Callable[..., keras.Model]] = {
    "cifar_resnet": architectures.CifarResNet,
    "inception_v3": architectures.InceptionV3,
    "lenet": architectures.LeNet,
    "preact_resnet18": architectures.PreActResNet18,
    "resnet": architectures.ResNet,
    "resnet20": architectures.ResNet20,
    "revnet": architectures.RevNet,
    "wide_resnet": architectures.WideResNet,
}
METHODS: dict[str, type[methods.RobustModel]] = {
    "adversarial_training": methods.AdversarialTraining,
    "adversarial_logit_pairing": methods.AdversarialLogitPairing,
    "clean_logit_pairing": methods.CleanLogitPairing,
    "ensemble_adversarial_training": methods.EnsembleAdversarialTraining,
    "fast_adversarial_training": methods.FastAdversarialTraining,
    "feature_pairing": methods.FeaturePairing,
    "free_adversarial_training": methods.FreeAdversarialTraining,
    "logit_squeezing": methods.LogitSqueezing,
    "mart": methods.MART,
    "mixup": methods.Mixup,
    "natural_training": methods.NaturalTraining,
    "stale_adversarial_training": methods.StaleAdversarialTraining,
    "trades": methods.TRADES,
    "virtual_adversarial_training": methods.VirtualAdversarialTraining,
}
WEIGHT_PERTURBATIONS = {"adversarial": methods.AdversarialWeightPerturbation}
OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "adam": keras.optimizers.Adam,
    "sgd": keras.optimizers.SGD,
    "rmsprop": keras.optimizers.RMSprop,
    "tensorflow1_rmsprop": optimizers.TensorFlow1RMSprop,
}


def build_attack(config: Mapping[str, Any]) -> Attack:
    """Returns the attack of a section such as `dict(name="pgd", norm="linf", epsilon=0.3, steps=40)`.

    Raises:
        ValueError: if the norm, the name or an argument is unknown, or out of its range.
    """
    options = dict(config)
    ball = {key: options.pop(key) for key in ("norm", "epsilon", "bounds") if key in options}
    if "epsilon" not in ball:
        raise ValueError(f"An attack has an epsilon. Received: {dict(config)}")
    norm = ball.pop("norm", "linf")
    threat_model = _make("norm", NORMS, {"name": norm, **ball})
    return _make("attack", ATTACKS, options, threat_model)


def build_classifier(config: Mapping[str, Any]) -> keras.Model:
    """Returns the classifier of a section such as `dict(name="wide_resnet", depth=34)`, with new weights.

    Raises:
        ValueError: if the name or an argument is unknown, or out of its range.
    """
    return _make("classifier", CLASSIFIERS, config)


def build_optimizer(
    config: Mapping[str, Any], steps_per_epoch: int, total_steps: int, rate_factor: float = 1.0
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a section; its learning rate is a number or the section of a schedule.

    Args:
        config: such as `dict(name="adam", learning_rate=dict(name="one_cycle", peak=2e-3))`.
        steps_per_epoch: updates of a pass over the training data, for schedules stated in epochs. Where the optimizer
            accumulates gradients, each part of an update counts, as it does in Keras.
        total_steps: updates of the run, for schedules stated in fractions of it.
        rate_factor: by which the learning rate is multiplied.

    Raises:
        ValueError: if a name or an argument is unknown.
    """
    schedules: dict[str, Callable[..., Any]] = {
        "one_cycle": lambda **options: optimizers.one_cycle(total_steps, **options),
        "cyclic": lambda **options: optimizers.cyclic(total_steps, **options),
        "staircase_decay": lambda **options: optimizers.staircase_decay(steps_per_epoch, **options),
        "step_decay": lambda **options: optimizers.step_decay(steps_per_epoch, **options),
    }
    options = dict(config)
    rate = options.pop("learning_rate", None)
    if rate is None:
        raise ValueError(f"An optimizer has a learning_rate. Received: {dict(config)}")
    if isinstance(rate, Mapping):
        schedule = _make("learning_rate", schedules, rate)
        options["learning_rate"] = schedule if rate_factor == 1 else optimizers.Scaled(schedule, rate_factor)
    else:
        options["learning_rate"] = rate_factor * rate
    return _make("optimizer", OPTIMIZERS, options)


def build_model(
    config: Mapping[str, Any], steps_per_epoch: int, total_steps: int, automatic_dtype: str = "auto"
) -> methods.RobustModel:
    """Returns the compiled model of a checked config: classifier, attacks, method, optimizer and loss.

    Args:
        config: resolved: see `training.config`.
        steps_per_epoch: batches of a pass over the training data, for schedules.
        total_steps: batches of the run, likewise.
        automatic_dtype: the `compute_dtype` of attacks that have "auto"; that lets each machine decide on its own. In
            a deterministic run no clock decides, and it is "float32".

    Raises:
        ValueError: if a name or an argument is unknown, or out of its range.
    """
    if config["deterministic"]:
        automatic_dtype = "float32"
    attack = [_build_attack(config["attack"], automatic_dtype)] if config["attack"] else []
    options = {"seed": config["seed"]}
    if config["validation_attack"]:
        options["validation_attack"] = _build_attack(config["validation_attack"], automatic_dtype)
    if config["weight_perturbation"]:
        perturbation = {"name": "adversarial", **config["weight_perturbation"]}
        options["weight_perturbation"] = _make("weight_perturbation", WEIGHT_PERTURBATIONS, perturbation)
    if config["epsilon_warmup_epochs"]:
        warmup_steps = config["epsilon_warmup_epochs"] * steps_per_epoch
        options["epsilon_schedule"] = optimizers.PiecewiseLinear([0, warmup_steps], [0.0, 1.0])
    method = dict(config["method"]) if isinstance(config["method"], Mapping) else {"name": config["method"]}
    if "source_models" in method:
        method["source_models"] = [_load_classifier(path) for path in method["source_models"]]
    with _dtype_policy(config["precision"]):
        classifier = build_classifier(_with_input_shape(config["classifier"], config["image_size"]))
    model = _make("method", METHODS, method, classifier, *attack, **options)
    loss: keras.losses.Loss
    if needs_one_hot_labels(config):
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config["label_smoothing"])
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    updates = model.updates_per_batch
    scaled_from = config["rates_for_batch_size"]
    rate_factor = config["batch_size"] / scaled_from if scaled_from else 1.0
    optimizer = build_optimizer(config["optimizer"], updates * steps_per_epoch, updates * total_steps, rate_factor)
    model.compile(optimizer, loss, metrics=["accuracy"], steps_per_execution=config["steps_per_execution"])
    return model


def _with_input_shape(config: Mapping[str, Any], image_size: ImageSize) -> Mapping[str, Any]:
    """Returns the section of a classifier with the size of the images, where it does not say itself what it takes."""
    size = height_and_width(image_size)
    name = config.get("name") if isinstance(config, Mapping) else None
    if size is None or name not in CLASSIFIERS or "input_shape" in config:
        return config
    channels = inspect.signature(CLASSIFIERS[name]).parameters["input_shape"].default[2]
    return {**config, "input_shape": (*size, channels)}


def _build_attack(config: Mapping[str, Any], automatic_dtype: str) -> Attack:
    attack = build_attack(config)
    return replace_unchecked(attack, compute_dtype=automatic_dtype) if attack.compute_dtype == "auto" else attack


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """Gives layers that are made inside a dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _load_classifier(path: str) -> keras.Model:
    if not pathlib.Path(path).is_file():
        raise ValueError(f"source_models are .keras files. Received: {path!r}, which does not exist")
    return classifier_of(keras.models.load_model(path))


def needs_one_hot_labels(config: Mapping[str, Any]) -> bool:
    """Returns whether the model of a checked config is trained on one-hot labels."""
    name = config["method"].get("name") if isinstance(config["method"], Mapping) else config["method"]
    return bool(config["label_smoothing"]) or (name in METHODS and METHODS[name].NEEDS_ONE_HOT_LABELS)


def _make(section: str, registry: Mapping[str, Callable[..., Any]], config: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls what `config["name"]` stands for with the other entries as arguments."""
    options = dict(config) if isinstance(config, Mapping) else {"name": config}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in registry:
        raise ValueError(
            f"{section} is one of {sorted(registry)}. Received: {section}={name!r} of type {type(name).__name__}"
        )
    try:
        return registry[name](*args, **kwargs, **options)
    except TypeError as error:  # an argument that it does not have
        raise ValueError(f"{section} {name!r} does not take its arguments: {error}. Received: {options}") from error

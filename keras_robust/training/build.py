"""Builds the objects of a config. This is the one place where a name in a config becomes a class.

A section of a config is a dict with a `name` and the arguments of the class or function of that name:
`config.attack = dict(name="pgd", norm="linf", epsilon=0.3, steps=40)`. The name must be a registered one. The name of a
classifier, method, attack, optimizer or learning-rate schedule may also be the path of your own class or function, such
as "my_package.networks:MyNet".
"""

import contextlib
import inspect
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from keras_robust import architectures, attacks, core, methods, optimizers
from keras_robust.attacks import Attack
from keras_robust.core import ThreatModel
from keras_robust.core.serialization import (
    PATH_EXAMPLE,
    import_named,
    is_dotted_path,
    not_registered,
    replace_unchecked,
)
from keras_robust.data.source import ImageSize, height_and_width
from keras_robust.evaluation.inputs import classifier_of
from keras_robust.training.config import OBJECT

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


OWN: dict[str, tuple[type, str]] = {
    "classifier": (keras.Model, "a keras.Model from images to logits"),
    "method": (methods.RobustModel, "a keras_robust.RobustModel"),
    "attack": (Attack, "a keras_robust.attacks.Attack"),
    "optimizer": (keras.optimizers.Optimizer, "a keras.optimizers.Optimizer"),
    "learning_rate": (keras.optimizers.schedules.LearningRateSchedule, "a keras LearningRateSchedule"),
}
"""Sections whose name may be a path: the class of the object that it must make, and this class in words."""
Classifier: TypeAlias = keras.Model | Callable[[], keras.Model]
"""A classifier, or a function that makes one."""


def build_attack(config: Mapping[str, Any]) -> Attack:
    """Returns the attack of a section such as `dict(name="pgd", norm="linf", epsilon=0.3, steps=40)`.

    `norm` is "linf" by default. `epsilon` is required.

    Raises:
        ValueError: if there is no epsilon, or if the norm, the name or an argument is unknown or out of its range.
    """
    options = dict(config)
    ball = {key: options.pop(key) for key in ("norm", "epsilon", "bounds") if key in options}
    if "epsilon" not in ball:
        raise ValueError(f"An attack must have an epsilon. Received: {dict(config)}")
    norm = ball.pop("norm", "linf")
    threat_model = _make("norm", NORMS, {"name": norm, **ball})
    return _make("attack", ATTACKS, options, threat_model)


def build_classifier(config: Mapping[str, Any]) -> keras.Model:
    """Returns the classifier of a section such as `dict(name="wide_resnet", depth=34)`, with new weights.

    Raises:
        ValueError: if the name or an argument is unknown or out of its range.
    """
    return _make("classifier", CLASSIFIERS, config)


def as_classifier(given: Classifier) -> keras.Model:
    """Returns the classifier that was passed to `train`. If a function was passed, it is called.

    Raises:
        ValueError: if the result is not a `keras.Model`, or is a `RobustModel`, or if its weights were made outside the
            scope of the strategy that trains it.
    """
    made = given if isinstance(given, keras.Layer) or not callable(given) else given()
    if not isinstance(made, keras.Model) or isinstance(made, methods.RobustModel):
        raise ValueError(
            "classifier must be a keras.Model from images to logits, or a function that makes one. The config names "
            f"the method around it. Received: classifier={given!r}{'' if made is given else f', which makes {made!r}'}"
        )
    scope = tf.distribute.get_strategy().extended
    if not all(scope.variable_created_in_scope(weight.value) for weight in made.weights):
        raise ValueError(
            "A classifier that several devices train must be made in the scope of their strategy: give a function that "
            f"makes it. Received: classifier={given!r}"
        )
    return made


def own_paths(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the names in a config that are paths of the user's classes or functions, by section."""
    sections = {name: config[name] for name in ("classifier", "method", "attack", "validation_attack", "optimizer")}
    if isinstance(config["optimizer"], Mapping):
        sections["learning_rate"] = config["optimizer"].get("learning_rate")
    names = {key: value.get("name") if isinstance(value, Mapping) else value for key, value in sections.items()}
    return {section: str(name) for section, name in names.items() if is_dotted_path(name)}


def check_can_be_loaded(model: methods.RobustModel) -> None:
    """Checks that a model with the user's own objects can be loaded from a `.keras` file, as a resumed run does.

    Raises:
        ValueError: if it cannot be loaded.
    """
    try:
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
        keras.saving.deserialize_keras_object(config)
    except Exception as error:  # a user's class may raise anything
        absent = not_registered(error)
        reason = f"{absent} is not registered" if absent else f"{type(error).__name__}: {error}"
        raise ValueError(
            "The model must be one that Keras can load from a .keras file, because an interrupted run resumes from "
            "such a file. Decorate each of your classes and functions with "
            '@keras.saving.register_keras_serializable("my_package"). A class whose arguments are not plain data also '
            f"needs get_config and from_config. Received: {model.classifier.name!r} in "
            f"{type(model).__name__} ({reason})"
        ) from error


def build_optimizer(
    config: Mapping[str, Any], steps_per_epoch: int, total_steps: int, rate_factor: float = 1.0
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a section. Its learning rate is a number or the section of a schedule.

    Args:
        config: such as `dict(name="adam", learning_rate=dict(name="one_cycle", peak=2e-3))`. Your own schedule receives
            `steps_per_epoch` and `total_steps` if it has parameters of these names.
        steps_per_epoch: updates in a pass over the training data, for schedules that are stated in epochs. If the
            optimizer accumulates gradients, each accumulated batch counts as an update, as in Keras.
        total_steps: updates in the whole run, for schedules that are stated in fractions of the run.
        rate_factor: factor that multiplies the learning rate.

    Raises:
        ValueError: if there is no learning rate, or if a name or an argument is unknown.
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
        raise ValueError(f"An optimizer must have a learning_rate. Received: {dict(config)}")
    if isinstance(rate, Mapping):
        known = {"steps_per_epoch": steps_per_epoch, "total_steps": total_steps}
        schedule = _make("learning_rate", schedules, rate, known=known)
        options["learning_rate"] = schedule if rate_factor == 1 else optimizers.Scaled(schedule, rate_factor)
    else:
        options["learning_rate"] = rate_factor * rate
    return _make("optimizer", OPTIMIZERS, options)


def build_model(
    config: Mapping[str, Any],
    steps_per_epoch: int,
    total_steps: int,
    automatic_dtype: str = "auto",
    classifier: Classifier | None = None,
) -> methods.RobustModel:
    """Returns the compiled model of a checked config: classifier, attacks, method, optimizer and loss.

    Args:
        config: a config that `training.config.resolve` returned.
        steps_per_epoch: batches in a pass over the training data, for schedules.
        total_steps: batches in the whole run, for schedules.
        automatic_dtype: replaces the `compute_dtype` of attacks that have "auto". The default "auto" lets each machine
            choose by timing. A deterministic run always uses "float32", because timing may differ from run to run.
        classifier: replaces the classifier of the config. None builds the one that the config names.

    Raises:
        ValueError: if a name or an argument is unknown or out of its range.
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
        if classifier is None:
            made = build_classifier(_with_input_shape(config["classifier"], config["image_size"]))
        else:
            made = as_classifier(classifier)
    model = _make("method", METHODS, method, made, *attack, **options)
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
    """Returns the section of a registered classifier with `input_shape` added if it has none and images are resized."""
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
    """Makes a dtype policy the default of layers that are created inside."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _load_classifier(path: str) -> keras.Model:
    if not pathlib.Path(path).is_file():
        raise ValueError(f"source_models must be .keras files. Received: {path!r}, which does not exist")
    return classifier_of(keras.models.load_model(path))


def needs_one_hot_labels(config: Mapping[str, Any]) -> bool:
    """Returns whether the model of a config must be trained on one-hot labels."""
    name = config["method"].get("name") if isinstance(config["method"], Mapping) else config["method"]
    method = import_named("method", str(name)) if is_dotted_path(name) else METHODS.get(str(name))
    return bool(config["label_smoothing"]) or getattr(method, "NEEDS_ONE_HOT_LABELS", False)


def _make(
    section: str,
    registry: Mapping[str, Callable[..., Any]],
    config: Any,
    *args: Any,
    known: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Calls the class or function named `config["name"]`, with the other entries of `config` as arguments.

    Args:
        section: name of the section, for messages.
        registry: classes and functions by name.
        config: the section, or only its name.
        *args: positional arguments before those of the section.
        known: keyword arguments that the user's own class or function receives if it has parameters of these names.
        **kwargs: further keyword arguments.
    """
    options = dict(config) if isinstance(config, Mapping) else {"name": config}
    name = options.pop("name", None)
    if section in OWN and is_dotted_path(name):
        return _make_own(section, name, options, args, known or {}, kwargs)
    if OBJECT in options:
        raise ValueError(
            f"The {section} of this config was given to `train` as an object: give it again, or name one in the "
            f"config. Received: {section}={dict(config)}"
        )
    if not isinstance(name, str) or name not in registry:
        path = f", or a path such as {PATH_EXAMPLE!r}" if section in OWN else ""
        module, dot, last = name.rpartition(".") if isinstance(name, str) else ("", "", "")
        hint = f" Did you mean {f'{module}:{last}'!r}?" if path and dot and is_dotted_path(f"{module}:{last}") else ""
        raise ValueError(
            f"{section} must be one of {sorted(registry)}{path}.{hint} Received: {section}={name!r} of type "
            f"{type(name).__name__}"
        )
    try:
        return registry[name](*args, **kwargs, **options)
    except TypeError as error:  # an unknown argument
        raise ValueError(f"{section} {name!r} does not take its arguments: {error}. Received: {options}") from error


def _make_own(
    section: str, path: str, options: Mapping[str, Any], args: Any, known: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> Any:
    """Calls the user's class or function that a path names."""
    function = import_named(section, path)
    signature = inspect.signature(function)
    known = {name: value for name, value in known.items() if name in signature.parameters and name not in options}
    try:
        signature.bind(*args, **kwargs, **known, **options)
    except TypeError as error:
        raise ValueError(
            f"{section} {path!r} does not take its arguments: {error}. Its signature is {signature}. Received: "
            f"{len(args)} positional arguments, and the keyword arguments {sorted({**kwargs, **known, **options})}"
        ) from error
    made = function(*args, **kwargs, **known, **options)
    expected, in_words = OWN[section]
    if not isinstance(made, expected):
        raise ValueError(f"{section} {path!r} must make {in_words}. Received: {made!r} of type {type(made).__name__}")
    return made

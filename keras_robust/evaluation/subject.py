"""What is evaluated: a Keras model, a file of one, a SavedModel, or a function of images to logits."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_robust.attacks import as_model_fn, low_precision_of
from keras_robust.attacks.attack import ModelFn
from keras_robust.core.checks import check_one_in_one_out, check_output, check_weights
from keras_robust.core.seeds import Tensor
from keras_robust.evaluation.journal import digest
from keras_robust.layers import branch_in_use, use_branch
from keras_robust.methods import RobustModel

SIGNATURE = "serving_default"
"""Of a SavedModel: the one that every tool writes and calls where no other is named."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A classifier under evaluation.

    Attributes:
        description: for the record: the path it came from, or its name.
        parameters: number of weights, where it is known.
        image_shape: (height, width, channels) that it takes, where it is known.
        sha256: of its weights, where it is known.
        low_precision: the 16-bit dtype in which it computes, or None.
        model_fn_for: returns the function of images to float32 logits for a compute dtype (None is its own).
    """

    description: str
    parameters: int | None
    image_shape: tuple[int | None, ...] | None
    sha256: str | None
    low_precision: str | None
    model_fn_for: Callable[[str | None], ModelFn]


def as_subject(model: Any) -> Subject:
    """Returns what `evaluate` needs to know of a model.

    Args:
        model: a Keras model (a `RobustModel`, too), the path of a `.keras` file or of a SavedModel folder, or a
            differentiable function of images to logits.

    Raises:
        ValueError: if the path does not exist or holds no model, a Keras model was never built, a weight is not finite,
            a model has several inputs or outputs, or `model` is something else.
    """
    if isinstance(model, str | pathlib.Path):
        return _from_path(pathlib.Path(model))
    if isinstance(model, keras.Layer):
        return _from_keras(model, model.name)
    if callable(model):
        traced = tf.function(model)  # so that it may have Python's `if` on tensors
        return _from_function(_with_static_shape(traced), getattr(model, "__name__", type(model).__name__))
    raise ValueError(
        "model is a Keras model, the path of one, or a function of images to logits. "
        f"Received: model={model!r} of type {type(model).__name__}"
    )


def _from_path(path: pathlib.Path) -> Subject:
    if not path.exists():
        raise ValueError(f"The model does not exist: pass a .keras file or a SavedModel folder. Received: model={path}")
    if (path / "saved_model.pb").exists():
        return _from_saved_model(path)
    if path.suffix != ".keras":
        raise ValueError(f"A model is a .keras file or a SavedModel folder. Received: model={path}")
    return _from_keras(keras.models.load_model(path), str(path))


def as_keras_classifier(model: Any) -> keras.Layer:
    """Returns the classifier of a model that has layers to look into.

    Args:
        model: a Keras model (a `RobustModel`, too), or the path of a `.keras` file.

    Raises:
        ValueError: if it is something else.
    """
    if isinstance(model, str | pathlib.Path) and pathlib.Path(model).is_file():
        model = keras.models.load_model(model)
    if not isinstance(model, keras.Layer):
        raise ValueError(f"Layers are those of a Keras model or a .keras file. Received: model={model!r}")
    return classifier_of(model)


def classifier_of(model: Any) -> Any:
    """Returns the classifier inside a model of a training method, and anything else as it is.

    A model of a user's own may have a `classifier` that is a part of it alone, such as the one behind a denoiser.
    """
    return model.classifier if isinstance(model, RobustModel) else model


def _from_keras(model: keras.Layer, description: str) -> Subject:
    classifier = classifier_of(model)
    if not classifier.built:
        raise ValueError(
            "The model was never built, so it has no weights to evaluate: call it on a batch of images, train it, or "
            f"load its weights. Received: the unbuilt {type(classifier).__name__} {description!r}"
        )
    check_one_in_one_out(classifier)
    branch = branch_in_use(classifier)
    if branch is not None:
        description += f", {branch} branch"
    weights = [weight.numpy() for weight in classifier.weights]
    check_weights(zip((weight.path for weight in classifier.weights), weights, strict=True), description)
    shape = getattr(classifier, "input_shape", None)
    return Subject(
        description,
        classifier.count_params(),
        tuple(shape[1:]) if isinstance(shape, tuple) else None,
        digest(*weights),
        low_precision_of(classifier),
        lambda compute_dtype: _in_branch(branch, as_model_fn(classifier, compute_dtype=compute_dtype)),
    )


def _in_branch(branch: str | None, model_fn: ModelFn) -> ModelFn:
    """Returns `model_fn`, traced in a branch also by the threads that a strategy has for its replicas."""

    def run(images: Tensor) -> Tensor:
        with use_branch(branch):
            return model_fn(images)

    return run


def _from_saved_model(path: pathlib.Path) -> Subject:
    loaded = tf.saved_model.load(str(path))
    serve, argument = _serving_signature(loaded, path)

    def model_fn(images: Tensor) -> Tensor:
        (logits,) = serve(**{argument.name: tf.cast(images, argument.dtype)}).values()
        return tf.cast(logits, tf.float32)

    weights = [variable.numpy() for variable in serve.variables]
    check_weights(zip((variable.name for variable in serve.variables), weights, strict=True), str(path))
    subject = _from_function(model_fn, str(path))
    parameters = sum(variable.shape.num_elements() for variable in serve.variables)
    return dataclasses.replace(
        subject,
        parameters=parameters,
        image_shape=None if argument.shape.rank is None else tuple(argument.shape[1:]),
        sha256=digest(*weights),
        model_fn_for=lambda dtype: _keeps(loaded, subject.model_fn_for(dtype)),
    )


def _serving_signature(loaded: Any, path: pathlib.Path) -> tuple[Any, tf.TensorSpec]:
    """Returns the signature by which a SavedModel is called, and its argument.

    Raises:
        ValueError: if there is none, or it is not one of float images of any number to one output.
    """
    signatures = dict(loaded.signatures)
    if SIGNATURE not in signatures:
        raise ValueError(
            f"A SavedModel is called by its signature {SIGNATURE!r}: save it with kr.export, or with "
            "tf.saved_model.save(module, folder, signatures=...). To evaluate another signature, load it and pass the "
            "function lambda images: loaded.signatures[name](images)[output]. "
            f"Received: {path} with the signatures {sorted(signatures)}"
        )
    serve = signatures[SIGNATURE]
    inputs, outputs = serve.structured_input_signature[1], serve.structured_outputs
    argument: Any = next(iter(inputs.values()), None)
    received = (
        f"Received: {path} with the inputs {_listed(inputs.values())} and the outputs {_listed(outputs.values())}"
    )
    if len(inputs) != 1 or len(outputs) != 1 or not argument.dtype.is_floating:
        raise ValueError(
            f"The signature {SIGNATURE!r} maps one batch of float images to one tensor of logits. Of another one, load "
            f"it and pass a function of images to logits. {received}"
        )
    if argument.shape.rank is not None and argument.shape[:1] != [None]:
        raise ValueError(
            "Attacked batches shrink as examples are broken, so a SavedModel takes any number of images: export it "
            f"with a batch dimension of None. {received}"
        )
    return serve, argument


def _listed(specs: Any) -> str:
    parts = sorted(f"{spec.name} {spec.shape} {spec.dtype.name}" for spec in specs)
    return f"[{', '.join(parts)}]"


def _keeps(owner: Any, model_fn: ModelFn) -> ModelFn:
    """Returns `model_fn`, holding on to the owner of its variables."""
    return lambda images: (owner, model_fn(images))[1]


def _with_static_shape(function: ModelFn) -> ModelFn:
    """Returns `function`, whose logits have the static shape that attacks need also where it calls NumPy or an API.

    What the shape is without the batch, a call on blank images tells, once.
    """
    classes: list[int] = []

    def model_fn(images: Tensor) -> Tensor:
        logits = tf.convert_to_tensor(check_output(function(images)))
        if logits.shape.is_fully_defined() or not images.shape.is_fully_defined():
            return logits
        if not classes:
            with tf.init_scope():
                classes.extend(function(tf.zeros(images.shape, images.dtype)).shape[1:])
        if len(classes) == 1:  # what else it returns is refused when its values are there
            logits.set_shape((images.shape[0], *classes))
        return logits

    return model_fn


def _from_function(function: ModelFn, description: str) -> Subject:
    branch_in_use(None)

    def model_fn_for(compute_dtype: str | None) -> ModelFn:
        if compute_dtype is not None:
            raise ValueError(
                "compute_dtype needs a Keras model: the precision of a function or SavedModel is fixed. "
                f"Received: compute_dtype={compute_dtype!r} for {description}"
            )
        return lambda images: check_output(function(images))

    return Subject(description, None, None, None, None, model_fn_for)

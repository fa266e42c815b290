"""Loads and checks the inputs of an evaluation: a classifier and a data set, in any of the supported forms.

`prepare_evaluation` makes an `EvaluationSetup` of them. Every measurement starts from such a setup. The inputs are
checked here, before the first attack.
"""

import dataclasses
import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from keras_robust.attacks import as_model_fn, low_precision_of
from keras_robust.attacks.attack import BatchFunction, ModelFn, by_batch, make_batch_function
from keras_robust.core import seeds
from keras_robust.core.checks import (
    check_images,
    check_integer,
    check_labels,
    check_logits,
    check_one_in_one_out,
    check_output,
    check_weights,
    warn_of_scale,
)
from keras_robust.core.execution import check_compile_attack
from keras_robust.core.objectives import as_sparse
from keras_robust.core.seeds import Tensor
from keras_robust.data import describe, evaluation_batches
from keras_robust.data.decoding import naming_bad_images
from keras_robust.layers import branch_in_use, use_branch
from keras_robust.layers.mixture_batch_normalization import current_branch
from keras_robust.methods import RobustModel

SIGNATURE = "serving_default"
"""The signature of a SavedModel that tools write and call by default."""

IMAGE, LABEL = "image", "label"
"""The keys of images and labels in TFDS."""

NEIGHBOURS = 0.01
"""How much a logit may change with the other images of a batch, as a share of the largest logit. 16-bit floats are
rounded to 0.4 %. Batch normalisation in training mode changes logits by about 100 %."""

DETERMINISTIC = 1e-4
"""How much the logits of the same images may differ between two passes, as a share of the largest logit. A larger
difference cannot be rounding."""

NOT_A_CLASS = -1
"""The prediction for an image with a logit that is not finite."""


@dataclasses.dataclass(frozen=True)
class LoadedClassifier:
    """A classifier, from a Keras model, a file or a function. It is evaluated, or the source of attacked images.

    Attributes:
        description: path or name of the classifier, for the record.
        parameters: number of weights, or None if it is unknown.
        image_shape: (height, width, channels) of the images that it takes, or None if it is unknown.
        sha256: hash of its weights, or None if it is unknown.
        low_precision: the 16-bit dtype in which it computes, or None.
        model_fn_for: takes a compute dtype, and returns the function from images to float32 logits. None is the dtype
            in which the classifier was built.
    """

    description: str
    parameters: int | None
    image_shape: tuple[int | None, ...] | None
    sha256: str | None
    low_precision: str | None
    model_fn_for: Callable[[str | None], ModelFn]


@dataclasses.dataclass(frozen=True)
class EvaluationSetup:
    """The checked inputs and settings of an evaluation.

    Attributes:
        target: the classifier that is evaluated.
        source: the classifier that the attacks run on. In the white-box setting it is the same object as `target`.
        images: (examples, height, width, channels) float32, or another shape that the classifier takes.
        labels: sparse or one-hot, as the user passed them. Attacks get these labels.
        sparse_labels: (examples,) int32.
        clean_logits: (examples, classes) float32: logits of the target on the clean images.
        top_k: an example is broken when its label is not among the k largest logits.
        batch_size: number of examples at a time.
        seed: seed of all random draws.
        strategy: the strategy whose replicas share each batch.
        verbose: show progress bars.
        epsilons: (examples,) float32: the epsilon of each example. None uses the epsilon of each attack.
        targets: (examples,) int32: target classes for attacks towards given targets. None if there are none.
        compile_attack: compile with XLA: True, False, or "auto", which compiles if there is a GPU.
        notes: sentences about the classifier, for the report.
        change: largest difference of a logit of the target between two passes over the clean images, as a share of the
            largest logit.
    """

    target: LoadedClassifier
    source: LoadedClassifier
    images: np.ndarray
    labels: np.ndarray
    sparse_labels: np.ndarray
    clean_logits: np.ndarray
    top_k: int
    batch_size: int
    seed: int
    strategy: tf.distribute.Strategy
    verbose: bool
    epsilons: np.ndarray | None = None
    targets: np.ndarray | None = None
    compile_attack: bool | str = "auto"
    notes: tuple[str, ...] = ()
    change: float = 0.0

    @property
    def is_random(self) -> bool:
        """Whether the target is random at inference.

        Its noise can break an example each time that the target judges the example. A random target must therefore
        judge only once, at the end of an attack, and the result must say so.
        """
        return not self.change <= DETERMINISTIC

    @property
    def white_box(self) -> bool:
        """Whether attacks run on the target itself."""
        return self.source is self.target

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.clean_logits.shape[1]

    @property
    def clean_predictions(self) -> np.ndarray:
        """(examples,) int32: classes of the clean images. `NOT_A_CLASS` if a logit is not finite."""
        return classify(self.clean_logits).numpy()

    @property
    def clean_ranks(self) -> np.ndarray:
        """(examples,) int32: number of classes that the target ranks above the label on the clean images."""
        return rank_labels(self.clean_logits, self.sparse_labels).numpy()

    @property
    def first_ranks(self) -> np.ndarray:
        """(examples,) int32: ranks from which attacks start: `clean_ranks`, or 0 everywhere if the target is random.

        A random target is right on a clean image only by chance, so the clean pass must not count as a judgement.
        """
        return np.zeros_like(self.clean_ranks) if self.is_random else self.clean_ranks

    @property
    def note_of_randomness(self) -> str:
        """A sentence for the verdict of a random target. It is empty for other targets."""
        if not self.is_random:
            return ""
        return (
            f" The classifier is random at inference (logits of the same images differ by {self.change:.2g} of the "
            "largest between two passes): each accuracy is that of one pass, and includes its noise."
        )

    def batch_function(self, function: BatchFunction) -> BatchFunction:
        """Returns the graph of a function of a batch, which is split over the replicas: see `make_batch_function`."""
        return make_batch_function(function, self.strategy, self.compile_attack)

    def batch_size_for(self, examples: int) -> int:
        """Returns the batch size, or a smaller one if there are fewer examples. Every replica gets at least one row."""
        replicas = self.strategy.num_replicas_in_sync
        return min(self.batch_size, max(1, -(-examples // replicas)) * replicas)

    def first(self, examples: int) -> Self:
        """Returns a setup with the first `examples` examples, without progress bars."""
        names = ("images", "labels", "sparse_labels", "clean_logits", "epsilons", "targets")
        parts = {name: getattr(self, name)[:examples] for name in names if getattr(self, name) is not None}
        batch_size = self.batch_size_for(len(parts["images"]))
        return dataclasses.replace(self, **parts, batch_size=batch_size, verbose=False)


def prepare_evaluation(
    model: Any,
    dataset: Any,
    bounds: tuple[float, float],
    *,
    source: Any = None,
    top_k: int = 1,
    batch_size: int = 128,
    seed: int = 0,
    verbose: bool = True,
    compile_attack: bool | str = "auto",
) -> EvaluationSetup:
    """Loads and checks the inputs of an evaluation, and classifies the clean examples.

    Args:
        model: see `evaluate`.
        dataset: see `evaluate`.
        bounds: smallest and largest pixel value.
        source: see `evaluate`.
        top_k: see `evaluate`.
        batch_size: number of examples at a time, a multiple of the number of replicas of the current strategy.
        seed: seed of all random draws, in [0, 2**31).
        verbose: show progress bars.
        compile_attack: see `evaluate`.

    Warns:
        UserWarning: if the bounds are at least 100 apart and the images look divided by 255, or if the logits of an
            image depend on the other images in its batch.

    Raises:
        ValueError: if an argument is not as described.
    """
    strategy = tf.distribute.get_strategy()
    check_integer("batch_size", batch_size)
    check_integer("top_k", top_k)
    check_compile_attack(compile_attack)
    if batch_size % strategy.num_replicas_in_sync:
        raise ValueError(
            f"batch_size must be divisible by the {strategy.num_replicas_in_sync} replicas. Received: {batch_size}"
        )
    seeds.as_seed(seed)
    target = load_classifier(model)
    images, labels = load_examples(dataset, bounds, target)
    first = images[:batch_size]
    logits_of = make_logits_function(target, batch_size, strategy, compile_attack)
    first_logits = logits_of(first)
    check_logits(first_logits, len(first))
    # Both passes must use one graph: if TensorFlow's global seed is set, each new graph draws the same numbers again.
    logits, again = logits_of(images), logits_of(images)
    check_logits(logits, len(images))
    check_labels(labels, logits.shape[1], len(images))
    if top_k >= logits.shape[1]:
        raise ValueError(f"top_k must be below the number of classes, {logits.shape[1]}. Received: top_k={top_k}")
    change = _largest_change(logits, again)
    note = None
    if change <= DETERMINISTIC:
        note = _note_of_neighbours(logits_of, first, first_logits, bounds, batch_size)
    return EvaluationSetup(
        target=target,
        source=target
        if source is None or source is model
        else load_other_classifier(source, first, logits.shape[1], batch_size, compile_attack),
        images=images,
        labels=labels,
        sparse_labels=as_sparse(labels).numpy(),
        clean_logits=logits,
        top_k=top_k,
        batch_size=batch_size,
        seed=seed,
        strategy=strategy,
        verbose=verbose,
        compile_attack=compile_attack,
        notes=() if note is None else (note,),
        change=change,
    )


def load_other_classifier(
    model: Any, images: np.ndarray, classes: int, batch_size: int, compile_attack: bool | str = "auto"
) -> LoadedClassifier:
    """Loads another classifier for the same examples, such as the source of transferred attacks.

    Args:
        model: see `load_classifier`.
        images: some of the images, to try the classifier on.
        classes: number of classes of the target.
        batch_size: number of images at a time.
        compile_attack: see `evaluate`.

    Raises:
        ValueError: if it does not take the images, or does not return logits for as many classes as the target.
    """
    classifier = load_classifier(model)
    check_shape(images, classifier)
    logits = make_logits_function(classifier, batch_size, tf.distribute.get_strategy(), compile_attack)(images)
    check_logits(logits, len(images))
    if logits.shape[1] != classes:
        raise ValueError(
            f"All models must have the same number of classes, {classes}. Received: {classifier.description} with "
            f"{logits.shape[1]} classes"
        )
    return classifier


def make_logits_function(
    classifier: LoadedClassifier,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    compile_attack: bool | str = "auto",
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that maps images (examples, ...) to float32 logits (examples, classes), in batches."""
    model_fn = classifier.model_fn_for(None)

    def run(batch: Tensor, seed: Tensor) -> Tensor:
        del seed
        return model_fn(batch)

    run_batch, no_seed = make_batch_function(run, strategy, compile_attack), np.zeros(2, np.int32)
    return lambda images: by_batch(lambda batch, _: run_batch(batch, no_seed), images, batch_size)


def _largest_change(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the largest difference of a logit between two passes, as a share of the largest finite logit.

    It is infinite if different logits are finite in the two passes.
    """
    finite = np.isfinite(first) & np.isfinite(second)
    if not np.array_equal(np.isfinite(first), np.isfinite(second)):
        return float("inf")
    first, second = (np.where(finite, logits, 0.0) for logits in (first, second))
    return float(np.abs(first - second).max() / max(np.abs(first).max(), np.finfo(np.float32).tiny))


def _note_of_neighbours(
    logits_of: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    logits: np.ndarray,
    bounds: tuple[float, float],
    batch_size: int,
) -> str | None:
    """Warns if the logits of an image depend on the other images in its batch, and returns the warning.

    Half of the batch is classified again, in a batch that is filled up with black images, or with white images if the
    batch is dark. The classifier must not be random.

    Args:
        logits_of: see `make_logits_function`.
        images: the first batch.
        logits: the logits of `images`.
        bounds: smallest and largest pixel value.
        batch_size: batch size of `logits_of`.
    """
    few = images[: max(1, len(images) // 2)]
    if batch_size == len(few):
        return None  # the batch has no room for other images
    colour = max(bounds, key=lambda bound: abs(bound - float(few.mean())))
    others = np.full((batch_size - len(few), *few.shape[1:]), colour, few.dtype)
    again = logits_of(np.concatenate([few, others]))[: len(few)]
    change = _largest_change(logits[: len(few)], again)
    if change <= NEIGHBOURS:
        return None
    note = (
        f"The logits of an image depend on the other images in its batch: they changed by {change:.2g} of the largest "
        "logit when half of the batch was exchanged. The reason may be batch normalisation in training mode, for "
        "example in a model that was exported without training=False. Attacks make other batches than users do, so "
        "these accuracies say little. Export the model with training=False."
    )
    warnings.warn(note, stacklevel=4)
    return note


def classify(logits: Tensor) -> Tensor:
    """Returns the predicted classes, int32 (batch,), or `NOT_A_CLASS` where a logit is not finite."""
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    return tf.where(finite, tf.argmax(logits, axis=1, output_type=tf.int32), NOT_A_CLASS)


def rank_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the number of classes that rank above the label, int32 (batch,).

    A class ranks above the label if its logit is larger, or if it is equal and the class has the smaller index. If a
    logit of an image is not finite, the result is the number of classes.

    Args:
        logits: (batch, classes).
        labels: sparse (batch,).
    """
    classes = tf.shape(logits)[1]
    own = tf.gather(logits, labels, batch_dims=1)[:, None]
    before = tf.range(classes)[None, :] < labels[:, None]
    ahead = (logits > own) | ((logits == own) & before)
    rank = tf.reduce_sum(tf.cast(ahead, tf.int32), axis=1)
    return tf.where(tf.reduce_all(tf.math.is_finite(logits), axis=1), rank, classes)


def load_classifier(model: Any) -> LoadedClassifier:
    """Loads and checks a classifier.

    Args:
        model: a Keras model (or a `RobustModel`), the path of a `.keras` file or of a SavedModel folder, or a
            differentiable function from images to logits.

    Raises:
        ValueError: if the path does not exist or holds no model; if a Keras model is not built; if a weight is not
            finite; if a model has several inputs or outputs; or if `model` is something else.
    """
    if isinstance(model, str | pathlib.Path):
        return _from_path(pathlib.Path(model))
    if isinstance(model, keras.Layer):
        return _from_keras(model, model.name)
    if callable(model):
        traced = tf.function(model)  # AutoGraph allows Python's `if` on tensors
        return _from_function(_with_static_shape(traced), getattr(model, "__name__", type(model).__name__))
    raise ValueError(
        "model must be a Keras model, the path of one, or a function from images to logits. "
        f"Received: model={model!r} of type {type(model).__name__}"
    )


def _from_path(path: pathlib.Path) -> LoadedClassifier:
    if not path.exists():
        raise ValueError(f"model must be an existing .keras file or SavedModel folder. Received: model={path}")
    if (path / "saved_model.pb").exists():
        return _from_saved_model(path)
    if path.suffix != ".keras":
        raise ValueError(f"model must be a .keras file or a SavedModel folder. Received: model={path}")
    return _from_keras(keras.models.load_model(path), str(path))


def _from_keras(model: keras.Layer, description: str) -> LoadedClassifier:
    classifier = classifier_of(model)
    if not classifier.built:
        raise ValueError(
            "The model must be built: an unbuilt model has no weights. Call it on a batch of images, train it, or load "
            f"its weights. Received: the unbuilt {type(classifier).__name__} {description!r}"
        )
    check_one_in_one_out(classifier)
    branch = _branch_of(classifier)
    if branch is not None:
        description += f", {branch} branch"
    weights = [weight.numpy() for weight in classifier.weights]
    check_weights(zip((weight.path for weight in classifier.weights), weights, strict=True), description)
    shape = getattr(classifier, "input_shape", None)
    return LoadedClassifier(
        description,
        classifier.count_params(),
        tuple(shape[1:]) if isinstance(shape, tuple) else None,
        digest(*weights),
        low_precision_of(classifier),
        lambda compute_dtype: _in_branch(branch, as_model_fn(classifier, compute_dtype=compute_dtype)),
    )


def _branch_of(classifier: keras.Layer | None) -> str | None:
    """Returns the branch that `use_branch` selected, or None outside of `use_branch`: see `branch_in_use`."""
    return None if current_branch.get() is None else branch_in_use(classifier)


def _in_branch(branch: str | None, model_fn: ModelFn) -> ModelFn:
    """Returns `model_fn` that selects the branch itself. A strategy traces in other threads, without `use_branch`."""
    if branch is None:
        return model_fn

    def run(images: Tensor) -> Tensor:
        with use_branch(branch):
            return model_fn(images)

    return run


def _from_saved_model(path: pathlib.Path) -> LoadedClassifier:
    loaded = tf.saved_model.load(str(path))
    serve, argument = _serving_signature(loaded, path)

    def model_fn(images: Tensor) -> Tensor:
        (logits,) = serve(**{argument.name: tf.cast(images, argument.dtype)}).values()
        return tf.cast(logits, tf.float32)

    weights = [variable.numpy() for variable in serve.variables]
    check_weights(zip((variable.name for variable in serve.variables), weights, strict=True), str(path))
    classifier = _from_function(model_fn, str(path))
    parameters = sum(variable.shape.num_elements() for variable in serve.variables)
    return dataclasses.replace(
        classifier,
        parameters=parameters,
        image_shape=None if argument.shape.rank is None else tuple(argument.shape[1:]),
        sha256=digest(*weights),
        model_fn_for=lambda dtype: _keeping_alive(loaded, classifier.model_fn_for(dtype)),
    )


def _serving_signature(loaded: Any, path: pathlib.Path) -> tuple[Any, tf.TensorSpec]:
    """Returns the signature `SIGNATURE` of a SavedModel, and its argument.

    Raises:
        ValueError: if there is no such signature, or if it does not map any number of float images to one tensor.
    """
    signatures = dict(loaded.signatures)
    if SIGNATURE not in signatures:
        raise ValueError(
            f"A SavedModel must have the signature {SIGNATURE!r}. Save it with kr.export, or with "
            "tf.saved_model.save(module, folder, signatures=...). To evaluate another signature, load the SavedModel "
            "and pass the function lambda images: loaded.signatures[name](images)[output]. "
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
            f"The signature {SIGNATURE!r} must map one batch of float images to one tensor of logits. Otherwise load "
            f"the SavedModel yourself and pass a function from images to logits. {received}"
        )
    if argument.shape.rank is not None and argument.shape[:1] != [None]:
        raise ValueError(
            "A SavedModel must take any number of images, because batches shrink when examples are broken. Export it "
            f"with a batch dimension of None. {received}"
        )
    return serve, argument


def _listed(specs: Any) -> str:
    parts = sorted(f"{spec.name} {spec.shape} {spec.dtype.name}" for spec in specs)
    return f"[{', '.join(parts)}]"


def _keeping_alive(owner: Any, model_fn: ModelFn) -> ModelFn:
    """Returns `model_fn` with a reference to `owner`, so that the variables of `owner` are not deleted."""
    return lambda images: (owner, model_fn(images))[1]


def _from_function(function: ModelFn, description: str) -> LoadedClassifier:
    _branch_of(None)  # raises an error if `use_branch` selected a branch, because a function has none

    def model_fn_for(compute_dtype: str | None) -> ModelFn:
        if compute_dtype is not None:
            raise ValueError(
                "compute_dtype needs a Keras model, because the precision of a function or SavedModel is fixed. "
                f"Received: compute_dtype={compute_dtype!r} for {description}"
            )
        return lambda images: check_output(function(images))

    return LoadedClassifier(description, None, None, None, None, model_fn_for)


def _with_static_shape(function: ModelFn) -> ModelFn:
    """Returns `function` with a static shape of its logits, which attacks need.

    TensorFlow does not know the shape if `function` calls NumPy or an API. One call on blank images then shows the
    number of classes.
    """
    classes: list[int] = []

    def model_fn(images: Tensor) -> Tensor:
        logits = tf.convert_to_tensor(check_output(function(images)))
        if logits.shape.is_fully_defined() or not images.shape.is_fully_defined():
            return logits
        if not classes:
            with tf.init_scope():
                classes.extend(function(tf.zeros(images.shape, images.dtype)).shape[1:])
        if len(classes) == 1:  # `check_logits` refuses any other shape later
            logits.set_shape((images.shape[0], *classes))
        return logits

    return model_fn


def as_keras_classifier(model: Any) -> keras.Layer:
    """Returns the Keras classifier of a model or file. Its layers can be inspected.

    Args:
        model: a Keras model (or a `RobustModel`), or the path of a `.keras` file.

    Raises:
        ValueError: if `model` is something else.
    """
    if isinstance(model, str | pathlib.Path) and pathlib.Path(model).is_file():
        model = keras.models.load_model(model)
    if not isinstance(model, keras.Layer):
        raise ValueError(f"model must be a Keras model or the path of a .keras file. Received: model={model!r}")
    return classifier_of(model)


def classifier_of(model: Any) -> Any:
    """Returns the classifier of a `RobustModel`. Any other model is returned unchanged.

    The attribute `classifier` of other models may be only a part of them, for example the classifier after a denoiser.
    """
    return model.classifier if isinstance(model, RobustModel) else model


def digest(*arrays: np.ndarray) -> str:
    """Returns the SHA-256 of the values, shapes and dtypes of arrays, as 64 hexadecimal digits."""
    result = hashlib.sha256()
    for array in arrays:
        result.update(f"{array.dtype} {array.shape}".encode())
        result.update(np.ascontiguousarray(array).data)
    return result.hexdigest()


def load_examples(
    dataset: Any, bounds: tuple[float, float], classifier: LoadedClassifier
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a whole data set into memory, and returns (images, labels).

    Args:
        dataset: a batched `tf.data.Dataset` of (images, labels), or of dictionaries with the keys "image" and "label"
            as in TFDS; or a pair of arrays, or a dictionary of arrays with these keys.
        bounds: smallest and largest pixel value.
        classifier: the classifier. Its `image_shape` is compared with the images.

    Returns:
        The images, float32 (examples, ...), and the labels in the form of the data set.

    Warns:
        UserWarning: if the bounds are at least 100 apart and the images look divided by 255.

    Raises:
        ValueError: if images are not floats, not in bounds or of the wrong shape; if there is not one label per image;
            or if the data set has no examples, is not batched, does not end, ends early, or is of another type.
    """
    if isinstance(dataset, tf.data.Dataset):
        with naming_bad_images():
            batches = list(_batches(dataset, classifier))
    elif isinstance(dataset, Mapping) or (isinstance(dataset, list | tuple) and len(dataset) == 2):
        images, labels = _as_pair(dataset)
        batches = [(np.asarray(images), np.asarray(labels))]
    else:
        raise ValueError(
            "dataset must be a batched tf.data.Dataset of (images, labels) or a pair of arrays. "
            f"Received: dataset of type {type(dataset).__name__}"
        )
    batches = [(images, labels) for images, labels in batches if images.ndim == 0 or len(images)]
    if not batches:
        raise ValueError("dataset must have at least one example. Received: a data set of 0 examples")
    for images, labels in batches:
        check_images(images, bounds)
        check_shape(images, classifier)
        count = len(labels) if labels.ndim else 0
        if len(images) != count:
            raise ValueError(f"Give one label per image. Received: {count} labels for {len(images)} images")
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    warn_of_scale(images, bounds)
    return images.astype(np.float32, copy=False), labels


def _batches(dataset: tf.data.Dataset, classifier: LoadedClassifier) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    spec = dataset.element_spec
    parts = _as_pair(spec)[:2] if isinstance(spec, tuple | Mapping) else ()
    ranks = [part.shape.rank for part in parts if isinstance(part, tf.TensorSpec)]
    of_one_image = None if classifier.image_shape is None else len(classifier.image_shape)
    if len(ranks) < 2 or ranks[1] == 0 or ranks[0] in (0, 1, of_one_image):
        raise ValueError(
            f"dataset must yield batches of (images, labels): call batch() on it. Received: elements {spec}"
        )
    expected = int(dataset.cardinality())
    if expected == tf.data.INFINITE_CARDINALITY:
        raise ValueError("dataset must end: call repeat() only for training. Received: a repeated dataset")
    read = 0
    for batch in dataset.as_numpy_iterator():
        read += 1
        images, labels, *_ = _as_pair(batch)
        yield images, labels
    if expected != tf.data.UNKNOWN_CARDINALITY and read != expected:
        raise ValueError(
            "dataset must yield as many batches as its cardinality says. A cache() holds only the first batches if an "
            "iterator stopped before its end. Make the data set anew. "
            f"Received: {read} batches of {expected}"
        )


def _as_pair(batch: Any) -> Any:
    """Returns (images, labels) of a dictionary with the keys of TFDS. Anything else is returned unchanged.

    Raises:
        ValueError: if `batch` is a dictionary with other keys.
    """
    if not isinstance(batch, Mapping):
        return batch
    if not {IMAGE, LABEL} <= set(batch):
        raise ValueError(
            f"A dictionary of images and labels must have the keys {IMAGE!r} and {LABEL!r}. Make pairs of other "
            "dictionaries, e.g. with dataset.map(lambda batch: (batch['pixels'], batch['class'])). "
            f"Received: a dictionary with the keys {sorted(map(str, batch))}"
        )
    return batch[IMAGE], batch[LABEL]


def check_shape(images: np.ndarray, classifier: LoadedClassifier) -> None:
    """Raises `ValueError` if the `image_shape` of the classifier is known and does not fit the images."""
    expected = classifier.image_shape
    if expected is not None and not tf.TensorShape(expected).is_compatible_with(images.shape[1:]):
        raise ValueError(
            f"Images must have the shape {expected} of the classifier {classifier.description!r}. "
            f"Received: images of shape {images.shape[1:]}"
        )


def dataset_for(
    model: Any,
    name: str,
    split: str,
    *,
    batch_size: int,
    image_size: int | Sequence[int] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    order: str = "tfds",
    on_bad_image: str = "error",
) -> tf.data.Dataset:
    """Returns a data set for `evaluate`: `data.evaluation_batches`, with images of the size that the model takes.

    Args:
        model: see `evaluate`.
        name: name of the data set: see `data.load_split`.
        split: name of the split: see `data.load_split`.
        batch_size: number of examples in a batch.
        image_size: (height, width) of the images: see `data.evaluation_batches`. None resizes images only if they
            differ in size, to the size of the model's input.
        data_dir: see `data.load_split`.
        download: see `data.load_split`.
        order: see `data.load_split`.
        on_bad_image: see `data.load_split`.

    Raises:
        ValueError: if `data.evaluation_batches` refuses an argument; if images differ in size and the size of the
            model's input is unknown; or if there is no such model.
    """
    if image_size is None:
        info = describe(name, split, data_dir=data_dir, download=download)
        image_size = _size_of_input(model) if None in info.image_shape else 0
    return evaluation_batches(
        name,
        split,
        batch_size=batch_size,
        image_size=image_size,
        data_dir=data_dir,
        download=download,
        order=order,
        on_bad_image=on_bad_image,
    )


def _size_of_input(model: Any) -> int | tuple[int, int]:
    """Returns (height, width) of the images that a model takes, or 0 if they are unknown."""
    height, width, *_ = load_classifier(model).image_shape or (None, None)
    return 0 if height is None or width is None else (height, width)

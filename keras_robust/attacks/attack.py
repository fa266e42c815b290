"""What all attacks share: how they are called, how they run in batches, what they differentiate, and its gradient.

x_adv = attack(classifier, images, labels)  # NumPy arrays, in batches
x_adv = attack(as_model_fn(classifier), images, labels, seed)  # TensorFlow, inside a function of your own
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from keras_robust.core import ThreatModel, seeds
from keras_robust.core.checks import (
    check_images,
    check_integer,
    check_labels,
    check_logits,
    check_output,
    check_targets,
)
from keras_robust.core.execution import (
    custom_gradient,
    full_precision,
    make_tf_function,
    resolve_compute_dtype,
    uses_xla,
)
from keras_robust.core.keras_private import flatten_layers
from keras_robust.core.objectives import margin
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import Serializable, replace_unchecked
from keras_robust.layers.fast_inference import fast_inference

ModelFn = Callable[[Tensor], Tensor]
"""Maps images (batch, ...) to logits (batch, classes), and is differentiable."""

BatchFunction = Callable[..., Any]
"""Maps a nest of arrays (batch, ...), scalars, and a seed as last argument, to a nest of arrays (batch, ...)."""

COMPUTE_DTYPES = ("auto", "bfloat16", "float16", "float32")

FLOAT16_SCALE = 2.0**10
"""Factor of gradients inside a float16 classifier. The smallest positive float16 number is 2**-24."""


def check_compute_dtype(compute_dtype: str | None) -> None:
    """Raises `ValueError` unless `compute_dtype` is None or one of `COMPUTE_DTYPES`."""
    if compute_dtype is not None and compute_dtype not in COMPUTE_DTYPES:
        raise ValueError(
            f"compute_dtype must be one of {COMPUTE_DTYPES} or None. Received: compute_dtype={compute_dtype!r}"
        )


def low_precision_of(classifier: keras.Layer) -> str | None:
    """Returns the 16-bit dtype in which layers of `classifier` compute, or None if there is no such layer."""
    dtypes = {layer.compute_dtype for layer in flatten_layers(classifier)}
    return next((dtype for dtype in ("float16", "bfloat16") if dtype in dtypes), None)


@contextlib.contextmanager
def computing_in(classifier: keras.Layer, compute_dtype: str | None) -> Iterator[None]:
    """Runs the layers of `classifier` in `compute_dtype` over their float32 weights; 16-bit layers only in float32.

    It acts while a function is traced. A traced attack keeps its precision after the policies are restored.
    """
    layers: list[keras.Layer] = []
    if compute_dtype is not None:
        name = "float32" if compute_dtype == "float32" else f"mixed_{compute_dtype}"
        affected = ("mixed_bfloat16", "mixed_float16") if compute_dtype == "float32" else ("float32",)
        layers = [layer for layer in flatten_layers(classifier) if layer.dtype_policy.name in affected]
        policy = keras.DTypePolicy(name)
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.dtype_policy = old


def as_model_fn(
    classifier: keras.Layer, *, training: bool = False, compute_dtype: str | None = None, fold: bool = True
) -> ModelFn:
    """Returns the function from images to logits that attacks differentiate: float64 for float64 images, else float32.

    Args:
        classifier: any built Keras model from images to logits.
        training: run it in training mode, as some published code does (batch statistics in batch normalisation, active
            dropout). Nothing in the classifier changes: neither moving averages nor the state of its random draws. All
            passes of an attack therefore drop the same units.
        compute_dtype: "bfloat16" or "float16" runs float32 layers in low precision over their float32 weights.
            "float32" runs 16-bit layers (mixed precision) in full precision. "auto" chooses the faster of "bfloat16"
            and "float32" on this machine: see `core.execution.bfloat16_pays`.
        fold: in inference mode, fold batch normalisation into the layers before it, which changes logits by rounding
            only and makes attacks faster: see `layers.fast_inference`.

    Raises:
        ValueError: if `compute_dtype` is unknown.
    """
    check_compute_dtype(compute_dtype)
    compute_dtype = resolve_compute_dtype(compute_dtype)

    def model_fn(images: Tensor) -> Tensor:
        with computing_in(classifier, compute_dtype):
            scale = FLOAT16_SCALE if low_precision_of(classifier) == "float16" else 1.0
            images = scale_gradient(images, 1.0 / scale)
            if training:
                weights = [v.value for v in classifier.trainable_variables]
                state = [v.value for v in classifier.non_trainable_variables]
                logits, _ = classifier.stateless_call(weights, state, images, training=True)
            else:
                with fast_inference(classifier) if fold else contextlib.nullcontext():
                    logits = classifier(images, training=False)
        return scale_gradient(tf.cast(check_output(logits), full_precision(images.dtype)), scale)

    return model_fn


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Returns `x`. Its gradient is multiplied by `scale`."""
    return x if scale == 1.0 else custom_gradient(lambda x: (tf.identity(x), lambda gradient: scale * gradient))(x)


NO_GRADIENT = (
    "Gradient attacks need a classifier that is differentiable in its images. Use an attack without gradients (Square, "
    "SPSA, HopSkipJump), or make the images on a differentiable classifier, with `source=` of `evaluate`."
)


def with_whole_gradient(model_fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns the same function with a gradient of the shape of the images where TensorFlow's gradient is a scalar.

    TensorFlow gives foreign code inside `tf.py_function` the gradient 0, of shape ().
    """
    # The gradient of a product with ones has their shape.
    return lambda images: model_fn(images * tf.ones_like(images))


def own_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` as a separate function of the current graph. In eager mode it is unchanged.

    On CPU, TensorFlow replaces the gradient of a max-pooling by oneDNN's, which is ten times as fast, if it visits the
    pooling before the gradient. Inside a loop it often does not, and the attack takes 1.5 times as long (in 5 of 16
    traces of LeNet). A function that is not inlined into the loop's body contains no loop.
    """
    if tf.executing_eagerly():
        return function
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def value_and_gradient(function: Callable[[Tensor], Any], points: Tensor) -> tuple[Any, Tensor]:
    """Returns `function(points)` and the gradient of its first result, summed, of the shape and dtype of `points`.

    Args:
        function: maps images to a value () or (batch,), or to a tuple of this value and further tensors. It may use
            tensors from outside.
        points: (batch, ...).

    Raises:
        ValueError: if there is no gradient (for example with quantised inputs), or its shape differs from that of
            `points` (TensorFlow gives code inside `tf.py_function` the scalar 0). The attack would not move, and the
            classifier would seem robust. If the shape is known only at run time, the error is a
            `tf.errors.InvalidArgumentError` at the node `differentiable_in_its_images`.
    """

    def run(points: Tensor) -> tuple[Any, Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(points)
            results = function(points)
            value = results[0] if isinstance(results, tuple) else results
        return results, check_gradient(tape.gradient(value, points), points)

    return own_function(run)(points)


def check_gradient(gradient: Tensor | None, points: Tensor) -> Tensor:
    """Returns the gradient with respect to `points`.

    Raises:
        ValueError: if there is none, or it has another shape: see `value_and_gradient`.
    """
    if gradient is None or not gradient.shape.is_compatible_with(points.shape):
        received = "without a gradient" if gradient is None else f"with a gradient of shape {gradient.shape}"
        raise ValueError(f"{NO_GRADIENT} Received: a classifier {received}, for images of shape {points.shape}")
    if gradient.shape.rank is None:  # of tf.py_function in a graph
        gradient = tf.ensure_shape(gradient, points.shape, name="differentiable_in_its_images")
    return gradient


def padded_batches(count: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (row numbers of a batch, how many of them count). The last batch is filled up with its last row."""
    for begin in range(0, count, batch_size):
        rows = np.arange(begin, min(begin + batch_size, count))
        yield np.pad(rows, (0, batch_size - len(rows)), mode="edge"), len(rows)


def by_batch(
    function: Callable[[Any, int], Any],
    values: Any,
    batch_size: int,
) -> Any:
    """Calls `function(batch, batch number)` on padded batches of `values`, and concatenates the rows of its results.

    Args:
        function: maps a nest of arrays with `batch_size` rows to another such nest.
        values: a nest of arrays with the same number of rows, at least 1.
        batch_size: rows per call.
    """
    count = len(tf.nest.flatten(values)[0])
    parts = []
    for index, (rows, kept) in enumerate(padded_batches(count, batch_size)):
        result = function(tf.nest.map_structure(lambda array, rows=rows: array[rows], values), index)
        parts.append(tf.nest.map_structure(lambda array, kept=kept: array[:kept], result))
    return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def make_batch_function(
    function: BatchFunction, strategy: tf.distribute.Strategy, compile_attack: bool | str = "auto"
) -> BatchFunction:
    """Returns the graph of a function of a batch: it maps a nest of NumPy arrays, scalars and a seed to NumPy arrays.

    Each replica of a strategy gets a part of the batch and its own seed.

    Args:
        function: see `BatchFunction`.
        strategy: over whose replicas a batch is spread.
        compile_attack: with XLA: True, False, or "auto" for where there is a GPU; on CPU XLA makes attacks slower.
    """
    run = make_tf_function(function, jit_compile=uses_xla(compile_attack))
    replicas = strategy.num_replicas_in_sync

    def run_alone(batch: Any, *scalars_and_seed: Any) -> Any:
        return _to_numpy(run(tf.nest.map_structure(tf.constant, batch), *map(tf.constant, scalars_and_seed)))

    def run_replica(batch: Any, *scalars_and_seed: Any) -> Any:
        *scalars, seed = scalars_and_seed

        def own(batch: Any) -> Any:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return run(batch, *scalars, seeds.fold(seed, replica))

        return strategy.run(own, args=(batch,))

    run_replicas = make_tf_function(run_replica)

    def run_spread(batch: Any, *scalars_and_seed: Any) -> Any:
        def part(values: np.ndarray) -> Any:
            size = len(values) // replicas
            return strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(values[context.replica_id_in_sync_group * size :][:size])
            )

        spread = run_replicas(tf.nest.map_structure(part, batch), *map(tf.constant, scalars_and_seed))
        parts = [
            tf.nest.map_structure(
                lambda values, index=index: strategy.experimental_local_results(values)[index], spread
            )
            for index in range(replicas)
        ]
        return tf.nest.map_structure(lambda *values: np.concatenate(values), *map(_to_numpy, parts))

    return run_alone if replicas == 1 else run_spread


def _to_numpy(nest: Any) -> Any:
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), nest)


LENGTHS = ("step_size", "start_radius")
"""Settings of attacks that are proportional to epsilon, unless they are None."""

LATER_BATCH = 2**30
"""Folded into the seed of each later batch, before the batch number. No attack folds this number."""


class Attack(Serializable):
    """Base class of attacks: immutable, serialisable by Keras, pure TensorFlow.

    A subclass is a frozen dataclass with a `threat_model`, a `name` for reports, and `perturb`. A subclass that uses
    only logits must set `follows_gradients = False`: evaluations refuse other attacks if a classifier has no gradients.
    """

    follows_gradients: ClassVar[bool] = True
    threat_model: ThreatModel
    compute_dtype: str | None = None
    restarts: int = 1

    @property
    def name(self) -> str:
        """A name for tables that says what the attack does, such as "PGD-40 (Linf 0.3, step 0.01)"."""
        raise NotImplementedError

    @property
    def resolved_compute_dtype(self) -> str | None:
        """`compute_dtype`. For "auto", the faster dtype on this machine."""
        return resolve_compute_dtype(self.compute_dtype)

    @property
    def aim(self) -> str | None:
        """How the target class of each example is chosen, such as "given" or "random". None without a target."""
        return None

    def __call__(
        self,
        model: keras.Layer | ModelFn,
        images: Any,
        labels: Any,
        seed: int | Tensor | None = None,
        targets: Any = None,
        *,
        batch_size: int = 128,
    ) -> Any:
        """Returns attacked images, inside the threat model around `images` and inside the pixel range.

        With a Keras model, outside of `tf.function`, arguments are checked, and the attack runs as a graph, in batches,
        with XLA if there is a GPU. Each call compiles the attack, which takes seconds, so pass all images at once.
        Nothing is kept afterwards.

        With a function from images to logits, or inside `tf.function`, the call equals `perturb`: plain TensorFlow on
        one batch, without checks.

        Args:
            model: a Keras model from images to logits (also a `RobustModel`), or a differentiable function.
            images: (examples, ...) floats inside the threat model's bounds. With a Keras model an array or a tensor.
            labels: sparse (examples,) or one-hot (examples, classes).
            seed: an integer in [0, 2**31) or an int32 tensor of shape (2,). The same seed gives the same images. With a
                Keras model the default is 0.
            targets: for attacks towards given targets, sparse or one-hot. A target must not be the label.
            batch_size: with a Keras model, examples per batch.

        Returns:
            With a Keras model, a float32 NumPy array of the shape of `images`. Otherwise a tensor with the shape and
            dtype of `images`, through which no gradient flows.

        Raises:
            ValueError: if images, labels, targets, seed or classifier break the rules above.
        """
        if isinstance(model, keras.Layer) and tf.executing_eagerly():
            return self._on_arrays(model, images, labels, 0 if seed is None else seed, targets, batch_size)
        if seed is None:
            raise ValueError("An attack on a function from images to logits needs a seed. Received: seed=None")
        return self.perturb(model, images, labels, seed, targets)

    def perturb(
        self,
        model_fn: ModelFn,
        images: Tensor,
        labels: Tensor,
        seed: int | Tensor,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Returns attacked images: the attack itself, in TensorFlow operations that compile with XLA.

        Args:
            model_fn: maps images to logits (batch, classes).
            images: (batch, ...) floats inside the threat model's bounds.
            labels: sparse (batch,) or one-hot (batch, classes).
            seed: an integer or an int32 tensor of shape (2,). The same seed gives the same images.
            targets: for attacks towards given targets, sparse or one-hot.

        Returns:
            A tensor with the shape and dtype of `images`, through which no gradient flows.
        """
        raise NotImplementedError

    def aimed_at(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: int | Tensor, targets: Tensor | None = None
    ) -> Tensor:
        """Returns the target classes of `perturb`, (batch,) int32, for an attack with an `aim`; arguments as there."""
        raise NotImplementedError

    def check_fits(self, image_shape: tuple[int, ...], classes: int) -> None:
        """Raises `ValueError` if the attack cannot run. Evaluations call it before they measure anything.

        Args:
            image_shape: shape of one image, such as (height, width, channels).
            classes: number of classes of the classifier.
        """

    def resolved(self) -> Self:
        """Returns this attack with its defaults filled in, as it runs outside of a method with other defaults."""
        return self

    def with_defaults(self, **defaults: Any) -> Self:
        """Returns this attack as a training method publishes it: what was left to the default is filled in.

        Args:
            **defaults: what the method says of attacks that have such a setting: `objective`, `random_start`, and
                `step_size`, which counts where neither step size nor objective were given. (Files of earlier versions
                have an objective in all attacks: these keep the step size that they were trained with.)

        Raises:
            ValueError: if the attack as it was given, such as one from the clean image, does not go with the objective.
        """
        del defaults
        return self

    def first_gradient(self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits and the gradient that the attack follows at its start, which shows whether it has one.

        The base class uses the gradient of the margin at a random point of the ball. A subclass whose objective can be
        flat where the margin is not, such as the cross-entropy of large logits, must return its own gradient.

        Args:
            model_fn: maps images to logits (batch, classes).
            images: (batch, ...) floats inside the threat model's bounds.
            labels: sparse (batch,) or one-hot (batch, classes).
            seed: int32 tensor of shape (2,).

        Returns:
            The logits, (batch, classes), and the gradient, of the shape of `images`.
        """

        def value(points: Tensor) -> tuple[Tensor, Tensor]:
            logits = model_fn(points)
            return margin(labels, logits), logits

        (_, logits), gradient = value_and_gradient(value, self.threat_model.random_point(images, seed))
        return logits, gradient

    def scaled(self, fraction: Tensor) -> Self:
        """Returns this attack with epsilon times `fraction`, a float scalar in [0, 1] that may be a tensor.

        The settings in `LENGTHS` are scaled as well.
        """
        lengths = {name: fraction * length for name, length in self._lengths().items()}
        ball = replace_unchecked(self.threat_model, epsilon=fraction * self.threat_model.epsilon)
        return replace_unchecked(self, threat_model=ball, **lengths)

    def resized(self, epsilon: float | Tensor) -> Self:
        """Returns this attack with another epsilon. The settings in `LENGTHS` change in proportion.

        Args:
            epsilon: a number, or (batch,) float32 with one radius per example.

        Raises:
            ValueError: if such a setting is given and this attack's epsilon is 0.
        """
        own, lengths = self.threat_model.epsilon, self._lengths()
        if lengths and own == 0:
            raise ValueError(
                f"{next(iter(lengths))} grows in proportion to epsilon, so epsilon of attack must be above 0. "
                f"Received: attack={self!r}"
            )
        in_proportion = {name: length / own * epsilon for name, length in lengths.items()}
        ball = replace_unchecked(self.threat_model, epsilon=epsilon)
        return replace_unchecked(self, threat_model=ball, **in_proportion)

    def _lengths(self) -> dict[str, Any]:
        lengths = {name: getattr(self, name, None) for name in LENGTHS}
        return {name: length for name, length in lengths.items() if length is not None}

    def _on_arrays(
        self, classifier: keras.Layer, images: Any, labels: Any, seed: int | Tensor, targets: Any, batch_size: int
    ) -> np.ndarray:
        """Checks the arguments and attacks all images with one graph, in batches."""
        check_integer("batch_size", batch_size)
        images, labels, seed = np.asarray(images), np.asarray(labels), seeds.as_seed(seed)
        if not len(images):
            raise ValueError("Give at least one image to attack. Received: 0 images")
        check_images(images, self.threat_model.bounds)
        images = images.astype(np.float32)
        batch_size = min(batch_size, len(images))
        logits = classifier(images[:batch_size], training=False)
        check_logits(logits, batch_size)
        check_labels(labels, logits.shape[1], len(images))
        arrays = {"images": images, "labels": labels}
        if (targets is not None) != (self.aim == "given"):
            raise ValueError(
                "Give targets exactly if the attack aims at given targets, such as PGD(target='given'). "
                f"Received: {self.name} and targets={'None' if targets is None else 'an array'}"
            )
        if targets is not None:
            arrays["targets"] = check_targets(targets, labels, logits.shape[1])
        model_fn = as_model_fn(classifier, compute_dtype=self.compute_dtype)

        def run(batch: dict[str, Tensor], seed: Tensor) -> Tensor:
            return self.perturb(model_fn, batch["images"], batch["labels"], seed, batch.get("targets"))

        attack_batch = make_tf_function(run, jit_compile=uses_xla("auto"))

        def attack_rows(batch: dict[str, np.ndarray], index: int) -> np.ndarray:
            own = seed if index == 0 else seeds.fold(seed, LATER_BATCH, index)
            return attack_batch({name: tf.constant(values) for name, values in batch.items()}, own).numpy()

        return by_batch(attack_rows, arrays, batch_size)


def mean_of_passes(run: Callable[[], Any], passes: int) -> Any:
    """Returns the mean of several calls of `run`, which differ if the classifier is random at inference.

    Args:
        run: returns a nest of float tensors with the same shapes in each call.
        passes: number of calls, at least 1. The results of a single call are returned as they are.
    """
    first = run()
    if passes == 1:
        return first

    def add(index: Tensor, total: Any) -> tuple[Tensor, Any]:
        return index + 1, tf.nest.map_structure(tf.add, total, run())

    _, total = tf.while_loop(lambda index, _: index < passes, add, (tf.constant(1), first))
    return tf.nest.map_structure(lambda tensor: tensor / passes, total)


State = dict[str, Tensor]
"""Tensors with the batch as first dimension. Rows can be dropped and regrouped into other batches."""


class IterativeAttack(Attack):
    """Base class of attacks with a state per example that advances step by step.

    A subclass defines `total_steps`, `start`, `advance` and `finish`. A call of the attack runs all steps. The state
    holds at least `broken`, (batch,) bool: a misclassified point was found, and `finish` returns it.

    The result for an example depends on that example, the seed and the step. It does not depend on the other examples
    of the batch, as far as the source of the attack allows.

    `eot_iter` above 1 means that the attack is for classifiers that are random at inference. Its examples are judged
    once, at its end, because every further look would give the noise another chance.
    """

    eot_iter: int = 1

    @property
    def total_steps(self) -> int:
        """The number of steps of all runs."""
        raise NotImplementedError

    def start(
        self, model_fn: ModelFn, images: Tensor, labels: Tensor, seed: Tensor, targets: Tensor | None = None
    ) -> State:
        """Returns the state before the first step.

        Args:
            model_fn: maps images to logits (batch, classes).
            images: (batch, height, width, channels) float32 inside the threat model's bounds.
            labels: sparse (batch,) or one-hot (batch, classes).
            seed: int32 tensor of shape (2,).
            targets: for attacks towards given targets, sparse or one-hot.
        """
        raise NotImplementedError

    def advance(self, model_fn: ModelFn, state: State, first_step: Tensor, steps: Tensor, seed: Tensor) -> State:
        """Returns the state after `steps` more steps, the first of which is number `first_step` (from 0): int32."""
        raise NotImplementedError

    def finish(self, state: State) -> Tensor:
        """Returns the attacked images."""
        raise NotImplementedError

    def go_on(self, state: State) -> State:
        """Returns the state with no example broken, because another judge finds these examples correct.

        Such a judge uses another precision than the attack, or looks for the label among the top k.
        """
        return {**state, "broken": tf.zeros_like(state["broken"])}

    def perturb(
        self,
        model_fn: ModelFn,
        images: Tensor,
        labels: Tensor,
        seed: int | Tensor,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Returns attacked images: see `Attack.perturb`."""
        images, seed = tf.convert_to_tensor(images), seeds.as_seed(seed)
        state = self.start(model_fn, images, labels, seeds.fold(seed, 0), targets)
        state = self.advance(model_fn, state, tf.constant(0), tf.constant(self.total_steps), seeds.fold(seed, 1))
        return tf.stop_gradient(self.finish(state))

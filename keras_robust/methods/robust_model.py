"""The base class of all methods: it attacks a batch, then trains on the attacked images, on clean images, or on both.

Read it from top to bottom:

- how a model is built and compiled;
- the three hooks that a method overrides: `perturb` attacks images, `passes` chooses which images go through the
  classifier (by default only the attacked ones), `robust_loss` returns the loss to minimise;
- the training step, which calls the hooks;
- `fit`, which checks the first batch before it trains;
- saving and loading.

Keras does the rest of a step. Loss scaling, gradient accumulation, XLA, metrics and strategies therefore work as in
every Keras model.
"""

import contextlib
import functools
import inspect
import pathlib
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_robust.attacks import Attack, as_model_fn, low_precision_of
from keras_robust.core import seeds
from keras_robust.core.checks import EXAMPLES, check_batch, check_ends_in_logits, check_kind
from keras_robust.core.execution import check_compile_attack, full_precision, uses_xla
from keras_robust.core.keras_private import BegunDataset, KerasModel, caches_of, first_of_replicas
from keras_robust.core.objectives import is_sparse, labels_are_valid
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import (
    ADVERSARIAL,
    BRANCHES,
    CLEAN,
    auxiliary_layers,
    collect_auxiliary_logits,
    frozen_statistics,
    has_branches,
    mixture_layers,
    use_branch,
)
from keras_robust.layers.auxiliary_logits import AUXILIARY, auxiliary_loss
from keras_robust.methods.adversarial_weight_perturbation import AdversarialWeightPerturbation, moved_weights
from keras_robust.methods.export_classifier import export_classifier
from keras_robust.methods.finite_values import (
    ATTACKED,
    IMAGES,
    LABELS,
    FiniteValues,
    StopAtNonFinite,
    refused_labels_are_value_errors,
)
from keras_robust.methods.loss_and_metrics import (
    MetricSets,
    check_binary_loss,
    check_loss,
    raise_value_error,
    warn,
)
from keras_robust.methods.replicas import on_any_share
from keras_robust.methods.weight_averages import EndWithAverages, StatisticsOfAverages, warn_of_swapped_weights

Held = list[tuple[list[tf.data.Dataset], Any]]
"""Iterators that must stay alive, each with the caches that it reads from."""


@keras.saving.register_keras_serializable(PACKAGE)
class RobustModel(KerasModel):
    """The base class of all methods. It is not used directly: use a method, such as `AdversarialTraining`.

    Each metric of `compile` is logged under its own name for clean images, and with the prefix `robust_` for attacked
    images. A training step logs only the metrics of the images that the method trains on. Validation always logs the
    metrics of clean images, and those of attacked images if there is a `validation_attack`. In training, `loss` is
    the loss that the method minimises. In validation, it is the compiled loss on clean images.

    Args:
        classifier: a Keras model from images (batch, height, width, channels) float32 to logits (batch, classes).
        attack: the `Attack` that makes the training images. Its threat model holds epsilon and the pixel range, in the
            units of the images. Methods that train on clean images only do not have this argument.
        validation_attack: an `Attack` that `fit` and `evaluate` run on validation data, to log metrics such as
            `val_robust_accuracy`. None logs only the metrics of clean images.
        attack_in_training_mode: the training attack runs the classifier in training mode, with batch statistics and
            active dropout (Madry et al., 2018, their code). False runs it in inference mode, with moving averages. The
            attack never changes the moving averages.
        joint_pass: run clean and attacked images through the classifier as one batch, so that batch normalisation sees
            their mixture, as in the code of Kannan et al. (2018). False runs them one after the other. A classifier
            with mixture batch normalisation always runs them one after the other, each with its own branch.
        compile_attack: compile the attack with XLA: True, False, or "auto" (only if there is a GPU). On CPU, XLA makes
            attacks slower.
        epsilon_schedule: a Keras learning-rate schedule from the number of training steps to a fraction in [0, 1]. The
            epsilon, step size and start radius of the training attack are multiplied by this fraction.
            `PolynomialDecay(0.0, 1000, 1.0)` is a linear warm-up over 1000 steps. None is a fraction of 1.
        weight_perturbation: an `AdversarialWeightPerturbation`, or None.
        seed: seed of the random starts, in [0, 2**31). The starts also depend on the replica and on the number of
            training steps taken, which is saved with the model.
        **kwargs: arguments of `keras.Model`.

    Raises:
        ValueError: if the classifier is not a Keras model, has several inputs or outputs, has a single logit, or ends
            in a softmax or sigmoid; if an attack is not an `Attack`, or the attacks have different pixel ranges; if
            another argument is out of its range or of the wrong type; or if this class itself is called.
    """

    NEEDS_ATTACK: ClassVar[bool] = True
    NEEDS_ONE_HOT_LABELS: ClassVar[bool] = False

    def __init__(
        self,
        classifier: keras.Layer,
        attack: Attack | None,
        *,
        validation_attack: Attack | None = None,
        attack_in_training_mode: bool = False,
        joint_pass: bool = True,
        compile_attack: bool | str = "auto",
        epsilon_schedule: keras.optimizers.schedules.LearningRateSchedule | None = None,
        weight_perturbation: AdversarialWeightPerturbation | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if type(self) is RobustModel:
            raise ValueError(
                "RobustModel is the base class of the training methods and must not be used directly. Use a method, "
                "such as AdversarialTraining(classifier, attack), or write a subclass. "
                "Received: a call of RobustModel itself"
            )
        if attack is not None or self.NEEDS_ATTACK:
            _check_attack("attack", attack)
        elif epsilon_schedule is not None:
            raise ValueError(
                "epsilon_schedule needs a method that attacks during training. "
                f"Received: epsilon_schedule={epsilon_schedule!r} without an attack"
            )
        if validation_attack is not None:
            _check_attack("validation_attack", validation_attack)
        _check_same_bounds(attack, validation_attack)
        check_compile_attack(compile_attack)
        check_kind("epsilon_schedule", epsilon_schedule, keras.optimizers.schedules.LearningRateSchedule)
        check_kind("weight_perturbation", weight_perturbation, AdversarialWeightPerturbation)
        seeds.as_seed(seed)
        check_ends_in_logits(classifier)
        super().__init__(**kwargs)
        self.classifier = classifier
        self.attack = attack
        self.validation_attack = validation_attack
        self.attack_in_training_mode = attack_in_training_mode
        self.joint_pass = joint_pass
        self.compile_attack = compile_attack
        self.epsilon_schedule = epsilon_schedule
        self.weight_perturbation = weight_perturbation
        self.seed = seed
        self.steps_taken = self.add_weight(
            name="steps_taken", dtype="int32", initializer="zeros", trainable=False, aggregation="only_first_replica"
        )
        self.batch_statistics_frozen = False
        self.finite_values = FiniteValues()
        self.averages = StatisticsOfAverages()
        # Keras does not look for state in a namespace, so the next two are not saved with the model.
        self._tracing = types.SimpleNamespace(offsets=())  # added to the weights while a step is traced
        self._added = types.SimpleNamespace(metrics=[])  # see `log_in_training`
        self._metric_sets = MetricSets(None, None)
        self._given_jit_compile: bool | str = "auto"
        self._refuse = raise_value_error

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest pixel value: those of the attack, or of the validation attack, or else 0 and 1."""
        attack = self.attack or self.validation_attack
        return (0.0, 1.0) if attack is None else attack.threat_model.bounds

    @property
    def updates_per_batch(self) -> int:
        """Number of weight updates per batch of `fit`. Learning-rate schedules count updates."""
        return 1

    # Build and compile.

    def build(self, input_shape: Any) -> None:
        """Builds the classifier for images of `input_shape`, (None, height, width, channels)."""
        if not self.classifier.built:
            self.classifier.build(input_shape)
        self.built = True

    def build_as_classifier(self) -> None:
        """Builds this model if the classifier is built and its input shape is known.

        `__init__` does not do this, because a subclass can add layers and metrics only to a model that is not built.
        """
        if self.classifier.built and isinstance(getattr(self.classifier, "input_shape", None), tuple):
            self.build(self.classifier.input_shape)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile` does.

        Args:
            optimizer: as in Keras. If layers of the classifier compute in float16, the loss is scaled.
            loss: a loss on logits, such as `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`.
            loss_weights: as in Keras.
            metrics: a list. Each metric is logged for clean images and, with the prefix `robust_`, for attacked images.
            weighted_metrics: a list of metrics that use sample weights. A metric with the same name as one of `metrics`
                gets the prefix `weighted_`.
            **kwargs: as in Keras. `auto_scale_loss=False` turns the scaling of the loss off.

        Raises:
            ValueError: if the loss is missing, the loss or a metric expects probabilities, or `metrics` or
                `weighted_metrics` is not a list.
        """
        shape = getattr(self.classifier, "output_shape", None)
        classes = shape[-1] if isinstance(shape, tuple) else None
        check_loss(loss, classes, self._refuse)
        self._metric_sets = MetricSets(metrics, weighted_metrics, classes, self._refuse)
        self.build_as_classifier()
        if kwargs.get("auto_scale_loss", True) and low_precision_of(self.classifier) == "float16":
            optimizer = _scaling_loss(optimizer)
        self._given_jit_compile = kwargs.get("jit_compile", "auto")
        plain, weighted = self._metric_sets.plain, self._metric_sets.weighted
        super().compile(optimizer, loss, loss_weights, plain, weighted, **kwargs)
        if plain or weighted:
            self.build_metrics()

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The loss, the clean and robust metrics of `compile`, and the metrics of `log_in_training`."""
        return super().metrics + self._added.metrics

    # Hooks.

    def perturb(self, images: Tensor, labels: Tensor, seed: Tensor) -> Tensor:
        """Returns the attacked images to train on, of the shape of `images`. No gradient flows through them.

        Args:
            images: (batch, height, width, channels) floats in `bounds`.
            labels: (batch,) class indices, or (batch, classes) one-hot or soft rows.
            seed: int32 of shape (2,), different for each step and replica: see `core.seeds`.
        """
        attack = self.training_attack()
        with use_branch(ADVERSARIAL):
            return self.run_attack(attack, self.classifier, images, labels, seed, self.attack_in_training_mode)

    def passes(self, images: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
        """Returns the images that a training step runs through the classifier, under `CLEAN`, `ADVERSARIAL` or both.

        This class returns only the attacked images. `CLEAN` may hold fewer images than `ADVERSARIAL`: the first ones of
        the batch.
        """
        return {ADVERSARIAL: adversarial}

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the loss to minimise, a scalar.

        It must include the classifier's own losses (weight decay), and be divided by the number of replicas, as
        Keras's losses are.

        Args:
            labels: (batch,) or (batch, classes), one per image of the larger pass.
            logits: (batch, classes), under the keys of `passes`.
            sample_weight: (batch,) or None.
        """
        return self.classification_loss(labels, logits[ADVERSARIAL], sample_weight)

    # Parts for hooks.

    def training_attack(self) -> Attack:
        """Returns the training attack, with the epsilon that the schedule has in this step."""
        assert self.attack is not None  # methods without an attack do not call this
        if self.epsilon_schedule is None:
            return self.attack
        fraction = self.epsilon_schedule(self.steps_taken.value)
        return self.attack.scaled(keras.ops.cast(fraction, full_precision()))

    def run_attack(
        self,
        attack: Attack,
        classifier: keras.Layer,
        images: Tensor,
        labels: Tensor,
        seed: Tensor,
        training: bool = False,
    ) -> Tensor:
        """Runs `attack` on `classifier`, with XLA as `compile_attack` says, and returns the attacked images.

        No gradient flows through them.

        Args:
            attack: the attack, with the epsilon of this step.
            classifier: the model to attack, which may be another one than `self.classifier`.
            images: (batch, height, width, channels) floats in `bounds`.
            labels: (batch,) or (batch, classes).
            seed: int32 of shape (2,).
            training: run the classifier in training mode: see `attack_in_training_mode`.
        """
        model_fn = as_model_fn(classifier, training=training, compute_dtype=attack.compute_dtype)

        def run_once(images: Tensor, labels: Tensor, seed: Tensor) -> Tensor:
            return attack(model_fn, images, labels, seed)

        if uses_xla(self.compile_attack):
            run_once = tf.function(run_once, jit_compile=True)

        def with_seed(images: Tensor, labels: Tensor) -> Tensor:
            return tf.stop_gradient(run_once(images, labels, seed))

        with frozen_statistics(classifier, self.batch_statistics_frozen):
            return on_any_share(with_seed, False, images, labels)

    def classification_loss(self, labels: Tensor, logits: Tensor, sample_weight: Tensor | None) -> Tensor:
        """Returns the compiled loss plus the classifier's own (weight decay), a scalar. Call it once per step."""
        return super().compute_loss(None, labels, logits, sample_weight)

    def weight_decay(self) -> Tensor:
        """Returns only the classifier's own losses, a scalar, for a `robust_loss` that has no compiled loss."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return tf.add_n([tf.reduce_sum(loss) for loss in self.losses] or [tf.zeros((), full_precision())]) / replicas

    def auxiliary_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor | float:
        """Returns the weighted loss on the auxiliary logits of all passes of a step, or 0 if there are no such logits.

        Clean and attacked images have the same weight. See `AuxiliaryLogits`.
        """
        layers = auxiliary_layers(self.classifier)
        return auxiliary_loss(layers, self.loss, labels, logits, sample_weight) if layers else 0.0

    def branches_of(self, images: Tensor) -> tuple[str, ...]:
        """Returns the branches of mixture batch normalisation that a training step on `images` trains: one per pass."""
        return tuple(self.passes(images, images))

    # A step.

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """Attacks the batch, then makes a training step of Keras on the images of `passes`."""
        return self.update(self.attack_batch(data))

    def attack_batch(self, data: Any) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Attacks a batch of `fit`, counts the step, and returns (images of `passes`, labels, sample weights)."""
        images, labels, sample_weight = unpack_batch(data)
        seed = seeds.fold_replica(seeds.fold(seeds.as_seed(self.seed), seeds.TRAINING, self.steps_taken.value))
        images, adversarial = self.attacked(images, labels, seed)
        self.note_images(images, adversarial)
        self.steps_taken.assign_add(1)
        return self.passes(images, adversarial), labels, sample_weight

    def attacked(self, images: Any, labels: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (clean images, attacked images) of a batch, attacked by `perturb`.

        Training on images that were attacked in another process replaces this method.
        """
        return images, self.perturb(images, labels, seed)

    def update(self, batch: tuple[dict[str, Tensor], Tensor, Tensor | None]) -> dict[str, Tensor]:
        """Makes a training step of Keras on the result of `attack_batch`, and returns the metrics."""
        if self.weight_perturbation is not None:
            self._tracing.offsets = self.weight_perturbation.offsets(self, batch)
        try:
            results = super().train_step(batch)
        finally:
            self._tracing.offsets = ()
        if self.averages.values:
            self.averages.follow(self, batch[0])
        return {**results, **{metric.name: metric.result() for metric in self._added.metrics}}

    def call(self, inputs: Tensor | dict[str, Tensor], training: bool | None = None) -> Tensor | dict[str, Tensor]:
        """Returns the logits of images, (batch, classes), in full precision.

        For a dict of images by pass it returns a dict of logits by pass. In training, this dict also has the auxiliary
        logits.
        """

        def classify(images: Tensor) -> dict[str, Tensor]:
            logits, auxiliary = self.run_network(self.classifier, images, training)
            return {"": keras.ops.cast(logits, full_precision(images.dtype)), **auxiliary}

        if not isinstance(inputs, dict):
            return on_any_share(classify, bool(training), inputs)[""]
        return self.run_passes(classify, inputs, training)

    def run_network(self, network: keras.Layer, images: Tensor, training: bool | None) -> tuple[Any, dict[str, Tensor]]:
        """Returns (the outputs of `network`, its auxiliary logits by "/auxiliary/" plus the name of the layer).

        Without training, there are no auxiliary logits.
        """
        with collect_auxiliary_logits() as collected:
            outputs = network(images, training=training)
        return outputs, {f"{AUXILIARY}{name}": logits for name, logits in collected.items()}

    def run_passes(
        self, function: Callable[[Tensor], dict[str, Tensor]], inputs: dict[str, Tensor], training: bool | None
    ) -> dict[str, Tensor]:
        """Runs `function` on the images of each pass: as one batch if `joint_pass`, otherwise one after the other.

        With mixture batch normalisation, the passes always run one after the other.

        Args:
            function: runs the classifier. It maps images (batch, ...) to a dict of tensors (batch, ...).
            inputs: images by name of the pass. Other entries are ignored.
            training: whether each pass uses its own branch of mixture batch normalisation.

        Returns:
            A dict of all results. A key is the name of the pass followed by the key that `function` returned.
        """
        inputs = {name: images for name, images in inputs.items() if name in BRANCHES}
        function = functools.partial(on_any_share, function, bool(training))
        if self.joint_pass and not has_branches(self.classifier):
            with self._as_in_this_pass(None):
                results = _apply_jointly(function, inputs)
        else:
            results = {}
            for name, images in inputs.items():
                with self._as_in_this_pass(name if training else None):
                    results[name] = function(images)
        return {name + suffix: tensor for name, tensors in results.items() for suffix, tensor in tensors.items()}

    @contextlib.contextmanager
    def _as_in_this_pass(self, branch: str | None) -> Iterator[None]:
        with (
            use_branch(branch),
            frozen_statistics(self.classifier, self.batch_statistics_frozen),
            moved_weights(self.classifier, self._tracing.offsets),
        ):
            yield

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """Returns the loss of a step: in training that of `robust_loss`, otherwise the compiled loss of clean logits.

        In training, the loss on auxiliary logits is added.
        """
        if not isinstance(y_pred, dict):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return super().compute_loss(x, y, y_pred[CLEAN], sample_weight, training)
        loss = self.robust_loss(y, y_pred, sample_weight)
        return loss + keras.ops.cast(self.auxiliary_loss(y, y_pred, sample_weight), loss.dtype)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Tensor]:
        """Updates the metrics of the passes that are in `y_pred`, and returns their results and the loss, by name."""
        logits = y_pred if isinstance(y_pred, dict) else {CLEAN: y_pred}
        self._note_labels(y, next(iter(logits.values())), sample_weight)
        results = {m.name: m.result() for m in super().metrics if not self.is_container(m)}  # the loss
        for name, metrics in ((CLEAN, self._metric_sets.clean), (ADVERSARIAL, self._metric_sets.robust)):
            if name not in logits:
                continue
            count = tf.shape(logits[name])[0]
            for metric, is_weighted in metrics:
                weight = sample_weight[:count] if is_weighted and sample_weight is not None else None
                metric.update_state(y[:count], logits[name], sample_weight=weight)
                results[metric.name] = metric.result()
        return results

    def test_step(self, data: Any) -> dict[str, Tensor]:
        """Evaluates a batch of clean images and, if there is a validation attack, the same images attacked.

        The attack makes the same random draws in every epoch.
        """
        if self.validation_attack is None:
            return super().test_step(data)
        images, labels, sample_weight = unpack_batch(data)
        seed = seeds.fold_replica(seeds.fold(seeds.as_seed(self.seed), seeds.VALIDATION))
        adversarial = self.run_attack(self.validation_attack, self.classifier, images, labels, seed)
        self.note_images(images, adversarial)
        return super().test_step(({CLEAN: images, ADVERSARIAL: adversarial}, labels, sample_weight))

    # A step records wrong images and labels on the device. `finite_values` reads these records.

    def note_images(self, clean: Tensor, attacked: Tensor) -> None:
        """Records whether clean or attacked images have pixels that are NaN or infinite.

        It looks at the sum of all pixels. Finite pixels have a finite sum, because they are too small to overflow.
        """
        is_finite = [tf.math.is_finite(tf.reduce_sum(images)) for images in (clean, attacked)]
        self._note(IMAGES, ~is_finite[0])
        self._note(ATTACKED, is_finite[0] & ~is_finite[1])

    def _note_labels(self, labels: Any, logits: Tensor, sample_weight: Any) -> None:
        """Records whether a label is not one of the classes. Labels with sample weight 0 may have any value."""
        valid = labels_are_valid(labels, tf.shape(logits)[-1])
        if sample_weight is not None:
            valid |= tf.reshape(sample_weight, (-1,)) == 0
        self._note(LABELS, ~tf.reduce_all(valid))

    def _note(self, kind: int, is_bad: Tensor) -> None:
        if tf.distribute.in_cross_replica_context():  # Keras builds the model there, with symbolic tensors
            return
        noted = self.finite_values.noted.variable
        noted.assign(noted.read_value() + tf.one_hot([kind], 3) * tf.cast(is_bad, tf.float32))

    def check_finite(self, metrics: Any = None) -> None:
        """Raises an error if images, labels, weights or `metrics` are wrong: see `FiniteValues.check`."""
        self.finite_values.check(self, metrics)

    # Fit and evaluate.

    def fit(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, after a check of the first batch of the training and validation data.

        Labels in an array are all checked. Validation data from a generator is not checked. If the optimizer averages
        weights (`use_ema=True`), the averaged weights have their own statistics of batch normalisation: see
        `weight_averages`.

        Raises:
            ValueError: if the model was never compiled, or if images, labels or the classifier are wrong: see
                `core.checks.check_batch`; during training, if a label is not one of the classes.
            FloatingPointError: if images, attacked images, weights, gradients or the loss are not finite. The error
                comes at most `finite_values.INTERVAL` steps later, and before an epoch is validated or saved.
        """
        if not self.compiled:
            raise ValueError(
                "The model must be compiled before `fit`. Call `compile(optimizer=..., loss=...)`. "
                "Received: a model never compiled"
            )
        bound = fit_arguments(self, x, y, batch_size, *args, **kwargs)
        given = bound.arguments
        with self.distribute_strategy.scope():
            is_distributed = tf.distribute.has_strategy()
        held: Held = []  # keeps iterators alive until the training ends
        with _whole_after_errors(held):
            images, labels, x = _peek(x, y, batch_size, not is_distributed and given.get("class_weight") is None, held)
            images = self.first_images(images)
            self._check(images, labels, _counting_labels(y, given.get("sample_weight")))
            given["x"] = x
            given["validation_data"] = self._checked_validation(given.get("validation_data"), not is_distributed, held)
        self._warn_of_branch(images)
        is_split = isinstance(x, tf.distribute.DistributedDataset)
        replicas = 1 if is_split else self.distribute_strategy.num_replicas_in_sync
        self.make_replica_state(tf.convert_to_tensor(images), tf.convert_to_tensor(labels), replicas)
        self.averages.make(self)
        warn_of_swapped_weights(self, given.get("callbacks"))
        _add_callbacks(given, [StopAtNonFinite(), EndWithAverages()])
        self.finite_values.forget()
        try:
            with refused_labels_are_value_errors():
                return super().fit(*bound.args[1:], **bound.kwargs)
        finally:
            self.freeze_batch_statistics(False)

    def log_in_training(self, metrics: list[keras.metrics.Metric]) -> None:
        """Adds metrics to the log of the training steps that are traced from now on. The caller must update them."""
        self._added.metrics = metrics

    def first_images(self, images: Any) -> Any:
        """Returns the clean images of the first batch.

        Training on images that were attacked in another process replaces this method.
        """
        return images

    def make_replica_state(self, images: Tensor, labels: Tensor, replicas: int) -> None:
        """Makes the tensors that each replica keeps from step to step.

        A `RobustModel` has none: see `replica_state.KeepsReplicaState`.

        Args:
            images: a batch for all replicas together, of the shape and dtype of each later batch.
            labels: labels of these images.
            replicas: number of replicas that share a batch.
        """

    def _checked_validation(self, data: Any, goes_on: bool, held: Held) -> Any:
        """Checks the validation data and returns it. A generator is not checked, because this would use up a batch."""
        if data is None or isinstance(data, Iterator):
            return data
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        images, labels, x = _peek(x, y, None, goes_on, held)
        self._check(images, labels, _counting_labels(y, sample_weight))
        return x if isinstance(data, tf.data.Dataset) else data

    def _check(self, images: Any, labels: Any, all_labels: Any) -> None:
        """Raises `ValueError` as `check_batch` does. This builds the classifier, so it runs in the strategy's scope."""
        with self.distribute_strategy.scope():
            check_batch(self.classifier, images, labels, self.bounds, all_labels)
        check_binary_loss(self.loss, has_class_indices=is_sparse(tf.convert_to_tensor(labels)))

    def _warn_of_branch(self, images: Any) -> None:
        """Warns if the classifier predicts with a branch of mixture batch normalisation that is not trained."""
        trained = self.branches_of(tf.convert_to_tensor(images[:1])) if has_branches(self.classifier) else BRANCHES
        untrained = {layer.branch for layer in mixture_layers(self.classifier)} - set(trained)
        if untrained:
            warnings.warn(
                f"{type(self).__name__} trains the {' and '.join(trained)} branch of mixture batch normalisation, but "
                "the classifier is validated and exported with the other branch, which is not trained. Choose the "
                "trained branch with keras_robust.layers.select_branch. "
                f"Received: a classifier with the {' and '.join(untrained)} branch",
                stacklevel=3,
            )

    def freeze_batch_statistics(self, frozen: bool) -> None:
        """Chooses moving averages (True) or batch statistics for the next steps: see `FreezeBatchStatistics`."""
        if self.batch_statistics_frozen != frozen:
            self.batch_statistics_frozen = frozen
            self.make_train_function(force=True)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Trains on one batch as `keras.Model.train_on_batch` does."""
        self.averages.make(self)
        return super().train_on_batch(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does.

        Raises:
            ValueError: if a label is not one of the classes.
            FloatingPointError: if images, attacked images or weights are not finite.
        """
        with refused_labels_are_value_errors():
            results = super().evaluate(*args, **kwargs)
        self.check_finite()
        return results

    def use_averages(self) -> None:
        """Replaces the weights by their averages, with the statistics of the averages, as `fit` does at its end.

        Nothing changes if the optimizer does not average weights.
        """
        self.optimizer.finalize_variable_values(self.trainable_variables)
        self.averages.use()

    # Save and load.

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves the model as `keras.Model.save` does. It need not be compiled or called before."""
        self.build_as_classifier()
        super().save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Saves the weights as `keras.Model.save_weights` does."""
        self.build_as_classifier()
        super().save_weights(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        """Loads weights as `keras.Model.load_weights` does."""
        self.build_as_classifier()
        super().load_weights(*args, **kwargs)

    def save_own_variables(self, store: Any) -> None:
        """Saves the model's own variables, and the statistics of averaged weights."""
        super().save_own_variables(store)
        self.averages.save(store)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved. The file may have no statistics of averaged weights."""
        arrays = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118 - an h5 group
        super().load_own_variables(self.averages.without(arrays))
        self.averages.load(self, arrays)

    def export(
        self,
        filepath: str | pathlib.Path,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Exports the classifier in inference mode: see `export_classifier` and `kr.export`."""
        export_classifier(self.classifier, filepath, format, verbose, input_signature, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the model: classifier, attacks and options."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "classifier": serialize(self.classifier),
            "attack": serialize(self.attack),
            "validation_attack": serialize(self.validation_attack),
            "attack_in_training_mode": self.attack_in_training_mode,
            "joint_pass": self.joint_pass,
            "compile_attack": self.compile_attack,
            "epsilon_schedule": serialize(self.epsilon_schedule),
            "weight_perturbation": serialize(self.weight_perturbation),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "RobustModel":
        """Builds the model from the result of `get_config`."""
        kind = cls
        if cls is RobustModel:  # older files name RobustModel, which at that time was adversarial training
            kind = keras.saving.get_registered_object(f"{PACKAGE}>AdversarialTraining")
        return kind(
            **{name: keras.saving.deserialize_keras_object(value, custom_objects) for name, value in config.items()}
        )

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile`. `jit_compile` stays "auto", so that each machine chooses for itself."""
        config = super().get_compile_config()
        if not config:
            return {}
        metrics = keras.saving.serialize_keras_object(self._metric_sets.arguments)
        return {**config, **metrics, "jit_compile": self._given_jit_compile}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model with the result of `get_compile_config`, and makes the optimizer's variables.

        If the loss or a metric expects probabilities, it only warns, because older files may have such a loss.
        """
        self._refuse = warn
        try:
            self.compile(**keras.saving.deserialize_keras_object(config))
        finally:
            self._refuse = raise_value_error
        if self.built:
            self.optimizer.build(self.trainable_variables)


# A batch.


def unpack_batch(data: Any) -> tuple[Any, Tensor, Tensor | None]:
    """Returns (images, labels, sample weights) of a batch as tensors. Floating-point images are in full precision.

    The batch may hold NumPy arrays: `train_on_batch` passes them if the model runs eagerly.
    """
    images, labels, sample_weight = tf.nest.map_structure(
        lambda values: None if values is None else tf.convert_to_tensor(values),
        keras.utils.unpack_x_y_sample_weight(data),
    )
    precise = tf.nest.map_structure(lambda x: tf.cast(x, full_precision()) if x.dtype.is_floating else x, images)
    return precise, labels, sample_weight


def _apply_jointly(function: Callable[[Tensor], Any], inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Calls `function` once, on the images of all names together, and returns its results by name.

    Args:
        function: maps images (batch, ...) to a nest of tensors (batch, ...).
        inputs: images (batch, ...) by name.
    """
    sizes = [tf.shape(images)[0] if images.shape[0] is None else images.shape[0] for images in inputs.values()]
    outputs = function(tf.concat(list(inputs.values()), axis=0))
    parts = [tf.split(tensor, sizes) for tensor in tf.nest.flatten(outputs)]
    return {
        name: tf.nest.pack_sequence_as(outputs, [part[index] for part in parts]) for index, name in enumerate(inputs)
    }


# The first batch of `fit`.


def fit_arguments(model: keras.Model, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
    """Returns the arguments of a call of `fit` by name."""
    return inspect.signature(keras.Model.fit).bind(model, *args, **kwargs)


def _add_callbacks(arguments: dict[str, Any], callbacks: list[keras.callbacks.Callback]) -> None:
    """Puts `callbacks` before the callbacks in the arguments of a call of `fit`."""
    given = arguments.get("callbacks") or []
    if isinstance(given, keras.callbacks.CallbackList):
        for callback in callbacks:
            callback.set_params(given.params)
            callback.set_model(given.model)
        given.callbacks[:0] = callbacks
    else:
        arguments["callbacks"] = [*callbacks, *(given if isinstance(given, list | tuple) else [given])]


def _peek(x: Any, y: Any, batch_size: int | None, goes_on: bool, held: Held) -> tuple[Any, Any, Any]:
    """Returns (images, labels, x): the first batch, and `x` with all of its batches.

    If possible, the iterator that reads the first batch of a data set is also the iterator of the first epoch, and
    yields the first batch again. The data set is then read once, in its own order, and only one pipeline is in memory.
    Otherwise a second iterator reads the first batch. It is deleted, unless the data set has a cache.

    Args:
        x: data for `fit`: arrays or tensors, a `tf.data.Dataset` (also a distributed one), a `PyDataset` or a generator
            of batches.
        y: labels, if `x` holds only images.
        batch_size: argument of `fit`, for arrays.
        goes_on: whether Keras iterates over the data set object that it gets. It does not under a strategy, which
            distributes the data set, nor with class weights.
        held: a list, to which this function adds iterators that must stay alive until the data set was read to its end,
            with its caches. If such an iterator is deleted earlier, `tf.data.Dataset.cache` may keep the batches read
            so far as the whole data set.
    """
    if isinstance(x, tf.data.Dataset):
        iterator = iter(_with_first_twice(x) if goes_on else x)
        batch = next(iterator, None)
        if caches := caches_of(x):
            held.append((caches, iterator))
        if goes_on:
            x = BegunDataset(x, iterator)
    elif isinstance(x, tf.distribute.DistributedDataset):
        iterator = iter(x)
        held.append(([], iterator))
        # The values of the first replica. The strategy is not known here: `fit` is called outside its scope.
        batch = first_of_replicas(next(iterator))
    elif isinstance(x, keras.utils.PyDataset):
        batch = x[0]
    elif isinstance(x, Iterator):
        batch = next(x, None)
        x = _put_back(batch, x)
    elif x is None or isinstance(x, dict):
        return x, y, x
    else:
        size = batch_size or EXAMPLES
        return x[:size], None if y is None else y[:size], x
    if batch is None:
        raise ValueError("The data must have at least one batch. Received: a data set of 0 batches")
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return images, labels, x


def _with_first_twice(data: tf.data.Dataset) -> tf.data.Dataset:
    """Returns `data` with its first element twice: once for the check, once for the training."""

    def repeated(index: Any, element: Any) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensors(element).repeat(tf.where(tf.equal(index, 0), tf.constant(2, tf.int64), 1))

    return data.enumerate().flat_map(repeated)


def _put_back(batch: Any, rest: Iterator[Any]) -> Iterator[Any]:
    """Yields `batch`, then the rest. It is a generator, because Keras takes no other iterator."""
    yield batch
    yield from rest


@contextlib.contextmanager
def _whole_after_errors(held: Held) -> Iterator[None]:
    """If there is an error inside, keeps the iterators alive, so that the caches are complete in the next call."""
    try:
        yield
    except Exception:
        for caches, iterator in held:
            for cache in caches:
                vars(cache)["_looked_at_by"] = iterator  # it lives as long as the cache
        raise


def _counting_labels(labels: Any, sample_weight: Any) -> Any:
    """Returns the labels whose sample weight is not 0. Labels of weight 0 are not checked: they may have any value."""
    if labels is None or sample_weight is None:
        return labels
    return np.asarray(labels)[np.asarray(sample_weight).reshape(-1) != 0]


# Arguments.


def _check_attack(name: str, attack: Any) -> None:
    """Raises `ValueError` unless `attack`, of the argument `name`, is an `Attack`."""
    if not isinstance(attack, Attack):
        raise ValueError(f"{name} must be an Attack, such as PGD(Linf(0.3)). Received: {name}={attack!r}")


def _check_same_bounds(attack: Attack | None, validation_attack: Attack | None) -> None:
    """Raises `ValueError` if both attacks are given and their pixels have different ranges."""
    ranges = [tuple(each.threat_model.bounds) for each in (attack, validation_attack) if each is not None]
    if len(set(ranges)) > 1:
        raise ValueError(
            "attack and validation_attack must have the same pixel range, that of the images. "
            f"Received: bounds={ranges[0]} of attack, bounds={ranges[1]} of validation_attack"
        )


def _scaling_loss(optimizer: Any) -> keras.optimizers.Optimizer:
    """Returns the optimizer with loss scaling. Keras adds it only if the outer model itself computes in float16."""
    optimizer = keras.optimizers.get(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")

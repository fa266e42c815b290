"""The template of every method of the form "attack the batch, then train on clean and attacked images".

Read it from top to bottom: what a model is made of, how it is built and compiled, the three hooks that a method
overrides (`perturb`: how images are attacked; `passes`: which images go through the classifier; `robust_loss`: what is
minimised), the step that calls them, `fit` with a look at its first batch, and saving. The rest of a step is left to
Keras, so loss scaling, gradient accumulation, XLA, metrics, strategies and saving are Keras's own.
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
"""Iterators, with the caches that they read from."""


@keras.saving.register_keras_serializable(PACKAGE)
class RobustModel(KerasModel):
    """The template of training methods; what it trains by itself, on attacked images only, is `AdversarialTraining`.

    A metric of `compile` is logged under its plain name on clean images and under `robust_` plus its name on attacked
    ones, in training and validation alike; images that a phase never sees are not logged. `loss` is what is minimised
    in training, and in validation the loss on clean images.

    Args:
        classifier: any Keras model that maps (batch, height, width, channels) float images to (batch, classes) logits.
        attack: an `Attack`; its threat model holds epsilon and the pixel range, in the units of the images. Methods
            that train on clean images alone take none.
        validation_attack: an `Attack` that `fit` and `evaluate` run on validation data, to log `val_robust_accuracy`;
            None logs clean metrics only.
        attack_in_training_mode: attack the classifier with batch statistics (Madry et al., 2018, their code) instead of
            moving averages. The averages are left alone either way.
        joint_pass: run clean and attacked images through the classifier as one batch (so batch normalisation sees
            their mixture, as in the code of Kannan et al., 2018) instead of one after the other. A classifier with
            mixture batch normalisation always has them one after the other, each with its own branch.
        compile_attack: compile the attack with XLA: True, False, or "auto" for wherever there is a GPU. XLA makes
            attacks on CPU slower.
        epsilon_schedule: a Keras learning-rate schedule from training steps to the fraction of epsilon, step size and
            start radius that the training attack has, such as `PolynomialDecay(0.0, 1000, 1.0)` for a linear warm-up.
        weight_perturbation: an `AdversarialWeightPerturbation`, or None.
        seed: of the random starts, in [0, 2**31). They also depend on the number of training steps taken, which is
            saved with the model, and on the replica.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: if the classifier is no Keras model or ends in a softmax, an attack is no `Attack`, the attacks
            have different pixel ranges, or this class itself is called.
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
                "RobustModel is the template of the training methods. Use a method, such as "
                "AdversarialTraining(classifier, attack), or write a subclass. Received: a call of RobustModel itself"
            )
        if attack is not None or self.NEEDS_ATTACK:
            _check_attack("attack", attack)
        elif epsilon_schedule is not None:
            raise ValueError(
                "A schedule of epsilon is for methods that attack in training. "
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
        # Keras looks for no state in a namespace: neither is saved with the model.
        self._tracing = types.SimpleNamespace(offsets=())  # of the weights, in a step that is being traced
        self._added = types.SimpleNamespace(metrics=[])  # by a training around this one: see `metrics`
        self._metric_sets = MetricSets(None, None)
        self._given_jit_compile: bool | str = "auto"
        self._refuse = raise_value_error

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest pixel value: those of the attack, or 0 and 1 where there is none."""
        attack = self.attack or self.validation_attack
        return (0.0, 1.0) if attack is None else attack.threat_model.bounds

    @property
    def updates_per_batch(self) -> int:
        """How many updates of the weights a batch of `fit` makes: what learning-rate schedules count."""
        return 1

    # Build and compile.

    def build(self, input_shape: Any) -> None:
        """Builds the classifier for images of `input_shape`, (None, height, width, channels)."""
        if not self.classifier.built:
            self.classifier.build(input_shape)
        self.built = True

    def build_as_classifier(self) -> None:
        """Builds the model of a built classifier.

        Not in `__init__`: Keras lets a subclass add layers and metrics only before.
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
            optimizer: as in Keras; with loss scaling where the classifier computes in float16.
            loss: on logits, such as `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`.
            loss_weights: as in Keras.
            metrics: a list; each is logged for clean images and, with the prefix `robust_`, for attacked ones.
            weighted_metrics: likewise, with sample weights; with the prefix `weighted_` where a metric has the name.
            **kwargs: as in Keras.

        Raises:
            ValueError: if the loss is missing, it or a metric is one on probabilities, or the metrics are not lists.
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
        """The loss, those of `compile`, clean and robust, and those that a training around this one has added."""
        return super().metrics + self._added.metrics

    # Hooks.

    def perturb(self, images: Tensor, labels: Tensor, seed: Tensor) -> Tensor:
        """Returns the attacked images to train on, of the shape of `images`; no gradient flows through them.

        Args:
            images: (batch, height, width, channels).
            labels: (batch,) or (batch, classes).
            seed: int32 of shape (2,), of this step and replica: see `core.seeds`.
        """
        attack = self.training_attack()
        with use_branch(ADVERSARIAL):
            return self.run_attack(attack, self.classifier, images, labels, seed, self.attack_in_training_mode)

    def passes(self, images: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
        """Returns the images of a training step's passes, under `CLEAN` and `ADVERSARIAL` or one of them.

        `CLEAN` may hold fewer images than `ADVERSARIAL`: the first ones.
        """
        return {ADVERSARIAL: adversarial}

    def robust_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor:
        """Returns the scalar to minimise, with the classifier's own losses (weight decay), scaled for the strategy.

        Args:
            labels: (batch,) or (batch, classes), of the attacked images.
            logits: of the passes.
            sample_weight: (batch,) or None.
        """
        return self.classification_loss(labels, logits[ADVERSARIAL], sample_weight)

    # What hooks are made of.

    def training_attack(self) -> Attack:
        """Returns the attack as it is in this step, with the epsilon of the schedule."""
        assert self.attack is not None  # methods without an attack do not come here
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
        """Returns the images attacked on `classifier`, compiled with XLA where that pays; no gradient flows."""
        model_fn = as_model_fn(classifier, training=training, compute_dtype=attack.compute_dtype)

        def attacked(images: Tensor, labels: Tensor, seed: Tensor) -> Tensor:
            return attack(model_fn, images, labels, seed)

        if uses_xla(self.compile_attack):
            attacked = tf.function(attacked, jit_compile=True)

        def with_seed(images: Tensor, labels: Tensor) -> Tensor:
            return tf.stop_gradient(attacked(images, labels, seed))

        with frozen_statistics(classifier, self.batch_statistics_frozen):
            return _on_share(with_seed, False, images, labels)

    def classification_loss(self, labels: Tensor, logits: Tensor, sample_weight: Tensor | None) -> Tensor:
        """Returns the compiled loss plus the classifier's own (weight decay), a scalar; to be called once per step."""
        return super().compute_loss(None, labels, logits, sample_weight)

    def weight_decay(self) -> Tensor:
        """Returns the classifier's own losses alone, a scalar, for a `robust_loss` without the compiled loss."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return tf.add_n([tf.reduce_sum(loss) for loss in self.losses] or [tf.zeros((), full_precision())]) / replicas

    def auxiliary_loss(self, labels: Tensor, logits: dict[str, Tensor], sample_weight: Tensor | None) -> Tensor | float:
        """Returns the weighted loss on the auxiliary logits of all passes of a training step, 0 where there are none.

        Clean and attacked images count alike. See `AuxiliaryLogits`.
        """
        layers = auxiliary_layers(self.classifier)
        return auxiliary_loss(layers, self.loss, labels, logits, sample_weight) if layers else 0.0

    def branches_of(self, images: Tensor) -> tuple[str, ...]:
        """Returns the branches of mixture batch normalisation that a step on `images` trains: one per pass."""
        return tuple(self.passes(images, images))

    # A step.

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """Attacks the batch, then lets Keras take a step on the passes."""
        return self.update(self.attack_batch(data))

    def attack_batch(self, data: Any) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Returns (images of the passes, labels, sample weights) of what `fit` reads, and counts the step."""
        images, labels, sample_weight = unpack_batch(data)
        seed = seeds.fold_replica(seeds.fold(seeds.as_seed(self.seed), seeds.TRAINING, self.steps_taken.value))
        images, adversarial = self.attacked(images, labels, seed)
        self.note_images(images, adversarial)
        self.steps_taken.assign_add(1)
        return self.passes(images, adversarial), labels, sample_weight

    def attacked(self, images: Any, labels: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns clean and attacked images. What trains on images that were attacked elsewhere replaces it."""
        return images, self.perturb(images, labels, seed)

    def update(self, batch: tuple[dict[str, Tensor], Tensor, Tensor | None]) -> dict[str, Tensor]:
        """Lets Keras take a step on what `attack_batch` returned; returns the metrics."""
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
        """Returns logits of images in full precision; of a dict of images a dict, with auxiliary ones in training."""

        def classify(images: Tensor) -> dict[str, Tensor]:
            logits, auxiliary = self.run_network(self.classifier, images, training)
            return {"": keras.ops.cast(logits, full_precision(images.dtype)), **auxiliary}

        if not isinstance(inputs, dict):
            return _on_share(classify, bool(training), inputs)[""]
        return self.run_passes(classify, inputs, training)

    def run_network(self, network: keras.Layer, images: Tensor, training: bool | None) -> tuple[Any, dict[str, Tensor]]:
        """Returns what `network` makes of `images`, and in training its auxiliary logits by "/auxiliary/" and layer."""
        with collect_auxiliary_logits() as collected:
            outputs = network(images, training=training)
        return outputs, {f"{AUXILIARY}{name}": logits for name, logits in collected.items()}

    def run_passes(
        self, function: Callable[[Tensor], dict[str, Tensor]], inputs: dict[str, Tensor], training: bool | None
    ) -> dict[str, Tensor]:
        """Returns what `function` makes of the images of each pass: jointly, or of one pass after the other.

        Args:
            function: maps (batch, ...) images to tensors (batch, ...) by suffix, with the classifier.
            inputs: images by pass; other entries play no part.
            training: whether each pass uses its own branch of mixture batch normalisation.

        Returns:
            The tensors by name of the pass plus suffix.
        """
        inputs = {name: images for name, images in inputs.items() if name in BRANCHES}
        function = functools.partial(_on_share, function, bool(training))
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
        """Returns `robust_loss` of a training step's logits, and the compiled loss of clean logits otherwise."""
        if not isinstance(y_pred, dict):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return super().compute_loss(x, y, y_pred[CLEAN], sample_weight, training)
        loss = self.robust_loss(y, y_pred, sample_weight)
        return loss + keras.ops.cast(self.auxiliary_loss(y, y_pred, sample_weight), loss.dtype)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Tensor]:
        """Updates the clean and the robust metrics with the logits that there are; returns theirs and the loss."""
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
        """Evaluates a batch, clean and under the validation attack; its draws are the same in every epoch."""
        if self.validation_attack is None:
            return super().test_step(data)
        images, labels, sample_weight = unpack_batch(data)
        seed = seeds.fold_replica(seeds.fold(seeds.as_seed(self.seed), seeds.VALIDATION))
        adversarial = self.run_attack(self.validation_attack, self.classifier, images, labels, seed)
        self.note_images(images, adversarial)
        return super().test_step(({CLEAN: images, ADVERSARIAL: adversarial}, labels, sample_weight))

    # What a step notes for `finite_values`.

    def note_images(self, clean: Tensor, attacked: Tensor) -> None:
        """Notes in a step whether its images are not finite.

        The sum of an image is finite where its pixels are: they are too small for it to overflow.
        """
        is_finite = [tf.math.is_finite(tf.reduce_sum(images)) for images in (clean, attacked)]
        self._note(IMAGES, ~is_finite[0])
        self._note(ATTACKED, is_finite[0] & ~is_finite[1])

    def _note_labels(self, labels: Any, logits: Tensor, sample_weight: Any) -> None:
        """Notes whether labels are none of the classes; those of weight 0 may be anything."""
        valid = labels_are_valid(labels, tf.shape(logits)[-1])
        if sample_weight is not None:
            valid |= tf.reshape(sample_weight, (-1,)) == 0
        self._note(LABELS, ~tf.reduce_all(valid))

    def _note(self, kind: int, is_bad: Tensor) -> None:
        if tf.distribute.in_cross_replica_context():  # Keras builds a model there, of symbols alone
            return
        noted = self.finite_values.noted.variable
        noted.assign(noted.read_value() + tf.one_hot([kind], 3) * tf.cast(is_bad, tf.float32))

    def check_finite(self, metrics: Any = None) -> None:
        """Raises if images, labels, weights or results are not what they must be: see `FiniteValues.check`."""
        self.finite_values.check(self, metrics)

    # Fit and evaluate.

    def fit(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, after a look at the first batch, and at that of the validation data.

        Labels that are arrays are looked at as a whole. Where the optimizer averages weights (`use_ema=True`), the
        averages have statistics of batch normalisation of their own: see `weight_averages`.

        Raises:
            ValueError: if the model was never compiled, or images, labels or classifier are not what they must be:
                see `core.checks.check_batch`; in training, if a label is none of the classes.
            FloatingPointError: if images, attacked images, weights, gradients or the loss are not finite: within
                `finite_values.INTERVAL` steps, and before an epoch is validated or saved.
        """
        if not self.compiled:
            raise ValueError("Call `compile(optimizer=..., loss=...)` before `fit`. Received: a model never compiled")
        bound = fit_arguments(self, x, y, batch_size, *args, **kwargs)
        given = bound.arguments
        with self.distribute_strategy.scope():
            is_distributed = tf.distribute.has_strategy()
        held: Held = []  # iterators live until the end
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
        """Lets training steps that are traced from now on log these metrics, too; who passes them updates them."""
        self._added.metrics = metrics

    def first_images(self, images: Any) -> Any:
        """Returns the clean images of the first batch. What trains on images attacked elsewhere replaces it."""
        return images

    def make_replica_state(self, images: Tensor, labels: Tensor, replicas: int) -> None:
        """Makes what a step keeps for the next one, for batches such as these of all replicas together: nothing here.

        See `replicas.KeepsReplicaState`.
        """

    def _checked_validation(self, data: Any, goes_on: bool, held: Held) -> Any:
        """Checks validation data that can be looked at, and returns it: what is taken from a generator is gone."""
        if data is None or isinstance(data, Iterator):
            return data
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        images, labels, x = _peek(x, y, None, goes_on, held)
        self._check(images, labels, _counting_labels(y, sample_weight))
        return x if isinstance(data, tf.data.Dataset) else data

    def _check(self, images: Any, labels: Any, all_labels: Any) -> None:
        """Raises `ValueError` as `check_batch`; a classifier that is not built yet is built by it, in the scope."""
        with self.distribute_strategy.scope():
            check_batch(self.classifier, images, labels, self.bounds, all_labels)
        check_binary_loss(self.loss, has_class_indices=is_sparse(tf.convert_to_tensor(labels)))

    def _warn_of_branch(self, images: Any) -> None:
        """Warns where the classifier predicts with a branch that is not trained."""
        trained = self.branches_of(tf.convert_to_tensor(images[:1])) if has_branches(self.classifier) else BRANCHES
        untrained = {layer.branch for layer in mixture_layers(self.classifier)} - set(trained)
        if untrained:
            warnings.warn(
                f"{type(self).__name__} trains the {' and '.join(trained)} branch of mixture batch normalisation, but "
                "the classifier is validated and exported with the other one: see keras_robust.layers.select_branch. "
                f"Received: a classifier with the {' and '.join(untrained)} branch",
                stacklevel=3,
            )

    def freeze_batch_statistics(self, frozen: bool) -> None:
        """Lets steps of this `fit` use moving averages instead of batch statistics; see `FreezeBatchStatistics`."""
        if self.batch_statistics_frozen != frozen:
            self.batch_statistics_frozen = frozen
            self.make_train_function(force=True)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`."""
        self.averages.make(self)
        return super().train_on_batch(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does.

        Raises:
            ValueError: if a label was none of the classes.
            FloatingPointError: if attacked images or weights are not finite.
        """
        with refused_labels_are_value_errors():
            results = super().evaluate(*args, **kwargs)
        self.check_finite()
        return results

    def use_averages(self) -> None:
        """Replaces weights by their averages with their statistics, where there are any, as `fit` does at its end."""
        self.optimizer.finalize_variable_values(self.trainable_variables)
        self.averages.use()

    # Save and load.

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves the model as `keras.Model.save` does, also one that was never compiled or called."""
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
        """Loads what `save_own_variables` saved; a file without statistics of averages is as good."""
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
        """Exports the classifier as it predicts: see `export_classifier` and `kr.export`."""
        export_classifier(self.classifier, filepath, format, verbose, input_signature, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns what rebuilds the model: classifier, attacks and options."""
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
        """Builds the model that `get_config` described."""
        kind = cls
        if cls is RobustModel:  # files of version 0.1 name the template, which trained as its first method does
            kind = keras.saving.get_registered_object(f"{PACKAGE}>AdversarialTraining")
        return kind(
            **{name: keras.saving.deserialize_keras_object(value, custom_objects) for name, value in config.items()}
        )

    def get_compile_config(self) -> dict[str, Any]:
        """Returns what `compile_from_config` needs, on any machine: `jit_compile` as it was given, "auto" or not."""
        config = super().get_compile_config()
        if not config:
            return {}
        metrics = keras.saving.serialize_keras_object(self._metric_sets.arguments)
        return {**config, **metrics, "jit_compile": self._given_jit_compile}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as the model that was saved was compiled, and makes the optimizer's variables.

        Warns where the loss or a metric takes logits for probabilities, in files of before that was refused.
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
    """Returns (images, labels, sample weights) of what a step reads as tensors; floating images in full precision.

    `train_on_batch` of a model that runs eagerly passes NumPy arrays to its step.
    """
    images, labels, sample_weight = tf.nest.map_structure(
        lambda values: None if values is None else tf.convert_to_tensor(values),
        keras.utils.unpack_x_y_sample_weight(data),
    )
    precise = tf.nest.map_structure(lambda x: tf.cast(x, full_precision()) if x.dtype.is_floating else x, images)
    return precise, labels, sample_weight


def _on_share(function: Callable[..., Any], training: bool, images: Tensor, *others: Tensor) -> Any:
    """Returns `function(images, *others)`, also where this replica has no images: see `on_any_share`."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1 or images.shape[0] is not None:
        return function(images, *others)
    return on_any_share(function, training, images, *others)


def _apply_jointly(function: Callable[[Tensor], Any], inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Returns by name what `function` makes of the images of each name, from one call on all of them.

    Args:
        function: maps (batch, ...) images to a nest of tensors (batch, ...).
        inputs: images by name.
    """
    sizes = [tf.shape(images)[0] if images.shape[0] is None else images.shape[0] for images in inputs.values()]
    outputs = function(tf.concat(list(inputs.values()), axis=0))
    parts = [tf.split(tensor, sizes) for tensor in tf.nest.flatten(outputs)]
    return {
        name: tf.nest.pack_sequence_as(outputs, [part[index] for part in parts]) for index, name in enumerate(inputs)
    }


# The first batch of `fit`.


def fit_arguments(model: keras.Model, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
    """Returns the arguments of a call of `fit` by their names."""
    return inspect.signature(keras.Model.fit).bind(model, *args, **kwargs)


def _add_callbacks(arguments: dict[str, Any], callbacks: list[keras.callbacks.Callback]) -> None:
    """Puts `callbacks` before those among the arguments of a call of `fit`."""
    given = arguments.get("callbacks") or []
    if isinstance(given, keras.callbacks.CallbackList):
        for callback in callbacks:
            callback.set_params(given.params)
            callback.set_model(given.model)
        given.callbacks[:0] = callbacks
    else:
        arguments["callbacks"] = [*callbacks, *(given if isinstance(given, list | tuple) else [given])]


def _peek(x: Any, y: Any, batch_size: int | None, goes_on: bool, held: Held) -> tuple[Any, Any, Any]:
    """Returns (images, labels, x): the first batch, and `x` with nothing taken from it.

    A data set is read by an iterator that goes on with its first epoch, first batch included: so it is read once, in
    the order that it has by itself, and no second pipeline is in memory. Where that is not possible, another iterator
    looks at it and is given up, unless something is cached.

    Args:
        x: what `fit` accepts: arrays or tensors, a `tf.data.Dataset` (also a distributed one), a `PyDataset` or a
            generator of batches.
        y: labels, where `x` holds images only.
        batch_size: of `fit`, for arrays.
        goes_on: whether Keras iterates over the data set that it is given itself. It does not under a strategy, which
            distributes it, nor with class weights.
        held: to this list an iterator is added that must not be given up before the data set was read to its end, with
            the caches in it: `tf.data.Dataset.cache` may take what it has seen for all that there is, for good.
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
        # The values of the first replica; `fit` is called outside the strategy's scope, so it is not known here.
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
        raise ValueError("There is nothing to train on. Received: a data set of 0 batches")
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return images, labels, x


def _with_first_twice(data: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the elements of `data`, of which the first can be looked at before it comes again."""

    def repeated(index: Any, element: Any) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensors(element).repeat(tf.where(tf.equal(index, 0), tf.constant(2, tf.int64), 1))

    return data.enumerate().flat_map(repeated)


def _put_back(batch: Any, rest: Iterator[Any]) -> Iterator[Any]:
    """Yields `batch` and the rest: a generator, the only iterator that Keras takes."""
    yield batch
    yield from rest


@contextlib.contextmanager
def _whole_after_errors(held: Held) -> Iterator[None]:
    """Leaves cached data sets whole that were looked at where there is an error inside, for the next try."""
    try:
        yield
    except Exception:
        for caches, iterator in held:
            for cache in caches:
                vars(cache)["_looked_at_by"] = iterator  # which then lives as long as the cache
        raise


def _counting_labels(labels: Any, sample_weight: Any) -> Any:
    """Returns the labels that are given as one array, but those of weight 0, which may be anything; None where not."""
    if labels is None or sample_weight is None:
        return labels
    return np.asarray(labels)[np.asarray(sample_weight).reshape(-1) != 0]


# Arguments.


def _check_attack(name: str, attack: Any) -> None:
    """Raises `ValueError` unless `attack`, of the argument `name`, is an `Attack`."""
    if not isinstance(attack, Attack):
        raise ValueError(f"{name} is an Attack such as PGD(Linf(0.3)). Received: {name}={attack!r}")


def _check_same_bounds(attack: Attack | None, validation_attack: Attack | None) -> None:
    """Raises `ValueError` if both attacks are given and their pixels have different ranges."""
    ranges = [tuple(each.threat_model.bounds) for each in (attack, validation_attack) if each is not None]
    if len(set(ranges)) > 1:
        raise ValueError(
            "attack and validation_attack have one pixel range, that of the images. "
            f"Received: bounds={ranges[0]} of attack, bounds={ranges[1]} of validation_attack"
        )


def _scaling_loss(optimizer: Any) -> keras.optimizers.Optimizer:
    """Returns the optimizer with loss scaling, as Keras does for a model that itself computes in float16."""
    optimizer = keras.optimizers.get(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")

"""The template of every method of the form "attack the batch, then train on clean and attacked images".

A method overrides one to three hooks: `perturb` (how images are attacked), `passes` (which images go through the
classifier) and `robust_loss` (what is minimised). The rest of a step is left to Keras, so loss scaling, gradient
accumulation, XLA, metrics, strategies and saving are Keras's own.
"""

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import keras

from keras_robust.attacks import Attack
from keras_robust.core import seeds
from keras_robust.core.checks import check_kind
from keras_robust.core.execution import check_compile_attack, full_precision
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE
from keras_robust.layers import ADVERSARIAL, CLEAN, frozen_statistics, has_branches, use_branch
from keras_robust.methods.adversarial_weight_perturbation import AdversarialWeightPerturbation, moved_weights
from keras_robust.methods.attacking import (
    apply_jointly,
    attack_classifier,
    check_attack,
    check_same_bounds,
    unpack_batch,
)
from keras_robust.methods.auxiliary import run_with_auxiliary, with_suffixes
from keras_robust.methods.checked_fit import CheckedFit
from keras_robust.methods.empty_shares import on_any_share


@keras.saving.register_keras_serializable(PACKAGE)
class RobustModel(CheckedFit):
    """Trains a classifier on attacked images only; the base class of the other methods.

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
        ValueError: if the classifier is no Keras model or ends in a softmax, an attack is no `Attack`, or the attacks
            have different pixel ranges.
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
        if attack is not None or self.NEEDS_ATTACK:
            check_attack("attack", attack)
        elif epsilon_schedule is not None:
            raise ValueError(
                "A schedule of epsilon is for methods that attack in training. "
                f"Received: epsilon_schedule={epsilon_schedule!r} without an attack"
            )
        if validation_attack is not None:
            check_attack("validation_attack", validation_attack)
        check_same_bounds(attack, validation_attack)
        check_compile_attack(compile_attack)
        check_kind("epsilon_schedule", epsilon_schedule, keras.optimizers.schedules.LearningRateSchedule)
        check_kind("weight_perturbation", weight_perturbation, AdversarialWeightPerturbation)
        seeds.as_seed(seed)
        super().__init__(classifier=classifier, **kwargs)
        self.attack = attack
        self.validation_attack = validation_attack
        self.attack_in_training_mode = attack_in_training_mode
        self.joint_pass = joint_pass
        self.compile_attack = compile_attack
        self.epsilon_schedule = epsilon_schedule
        self.weight_perturbation = weight_perturbation
        self.seed = seed
        self._tracing = types.SimpleNamespace(offsets=())  # of a step being traced; Keras looks for no state in it
        self.steps_taken = self.add_weight(
            name="steps_taken", dtype="int32", initializer="zeros", trainable=False, aggregation="only_first_replica"
        )

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest pixel value: those of the attack, or 0 and 1 where there is none."""
        attack = self.attack or self.validation_attack
        return (0.0, 1.0) if attack is None else attack.threat_model.bounds

    @property
    def updates_per_batch(self) -> int:
        """How many updates of the weights a batch of `fit` makes: what learning-rate schedules count."""
        return 1

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

    def branches_of(self, images: Tensor) -> tuple[str, ...]:
        """Returns the branches of mixture batch normalisation that a step on `images` trains: one per pass."""
        return tuple(self.passes(images, images))

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

        def attacked(images: Tensor, labels: Tensor) -> Tensor:
            return attack_classifier(attack, classifier, images, labels, seed, training, self.compile_attack)

        with frozen_statistics(classifier, self.batch_statistics_frozen):
            return on_any_share(attacked, False, images, labels)

    def run_passes(
        self, function: Callable[[Tensor], Any], inputs: dict[str, Tensor], training: bool | None
    ) -> dict[str, Any]:
        """Returns what `function` makes of the images of each pass: jointly, or of one pass after the other.

        Args:
            function: maps (batch, ...) images to a nest of tensors (batch, ...), with the classifier.
            inputs: images by pass.
            training: whether each pass uses its own branch of mixture batch normalisation.
        """
        function = functools.partial(on_any_share, function, bool(training))
        if not self.joint_pass or has_branches(self.classifier):
            results = {}
            for name, images in inputs.items():
                with self._as_in_this_pass(name if training else None):
                    results[name] = function(images)
            return results
        with self._as_in_this_pass(None):
            return apply_jointly(function, inputs)

    @contextlib.contextmanager
    def _as_in_this_pass(self, branch: str | None) -> Iterator[None]:
        with (
            use_branch(branch),
            frozen_statistics(self.classifier, self.batch_statistics_frozen),
            moved_weights(self.classifier, self._tracing.offsets),
        ):
            yield

    def attack_batch(self, data: Any) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Returns (images of the passes, labels, sample weights) of what `fit` reads, and counts the step."""
        images, labels, sample_weight = unpack_batch(data)
        step = self.steps_taken.value
        seed = seeds.fold_replica(seeds.fold(seeds.as_seed(self.seed), seeds.TRAINING, step))
        images, adversarial = self.attacked(images, step, lambda clean: self.perturb(clean, labels, seed))
        self.note_images(images, adversarial)
        self.steps_taken.assign_add(1)
        return self.passes(images, adversarial), labels, sample_weight

    def update(self, batch: tuple[dict[str, Tensor], Tensor, Tensor | None]) -> dict[str, Tensor]:
        """Lets Keras take a step on what `attack_batch` returned; returns the metrics."""
        if self.weight_perturbation is not None:
            self._tracing.offsets = self.weight_perturbation.offsets(self, batch)
        try:
            results = super().train_step(batch)
        finally:
            self._tracing.offsets = ()
        self.follow_averages(batch[0])
        return results

    # What Keras calls.

    def call(self, inputs: Tensor | dict[str, Tensor], training: bool | None = None) -> Tensor | dict[str, Tensor]:
        """Returns logits of images in full precision; of a dict of images a dict, with auxiliary ones in training."""

        def classify(images: Tensor) -> dict[str, Tensor]:
            logits, auxiliary = run_with_auxiliary(self.classifier, images, training)
            return {"": keras.ops.cast(logits, full_precision(images.dtype)), **auxiliary}

        if not isinstance(inputs, dict):
            return on_any_share(classify, bool(training), inputs)[""]
        return with_suffixes(self.run_passes(classify, inputs, training))

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """Attacks the batch, then lets Keras take a step on the passes."""
        return self.update(self.attack_batch(data))

    def test_step(self, data: Any) -> dict[str, Tensor]:
        """Evaluates a batch, clean and under the validation attack; its draws are the same in every epoch."""
        if self.validation_attack is None:
            return super().test_step(data)
        images, labels, sample_weight = unpack_batch(data)
        seed = seeds.fold_replica(seeds.fold(seeds.as_seed(self.seed), seeds.VALIDATION))
        adversarial = self.run_attack(self.validation_attack, self.classifier, images, labels, seed)
        self.note_images(images, adversarial)
        return super().test_step(({CLEAN: images, ADVERSARIAL: adversarial}, labels, sample_weight))

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
        return cls(
            **{name: keras.saving.deserialize_keras_object(value, custom_objects) for name, value in config.items()}
        )

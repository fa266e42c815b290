"""Makes the files of version_0_1/ with the code of commit 0b202dc, for tests that today's code reads them and goes on.

Command:  git worktree add old 0b202dc && cd old && PYTHONPATH=. python ../tests/golden/make_version_0_1.py OUTPUT

    data.npz                 images (24, 8, 8, 1) in [0, 1], labels of 3 classes, and weights of the samples
    methods.zip              NAME.keras: a model of each training method, and of each option, after 2 steps of `fit`
    methods.npz              the weights and metrics of each after 2 more steps, and its metrics of `evaluate` then
    classifier.keras         the classifier of the evaluations, another.keras the other one of the transfer matrix
    reports/NAME/            record.json and samples.npz of an evaluation; all analyses are in that of PGD
    journals/NAME/           the progress of an evaluation that was killed half-way
    journals/attacks.json    the record of the same evaluation, undisturbed
    workdir/                 a run of `kr.training.train` that was killed in the middle of its second epoch
    workdir.npz, history.csv the last weights and the history of the same run, undisturbed
"""

import contextlib
import json
import math
import pathlib
import shutil
import sys
import tempfile

import keras
import numpy as np

import keras_robust as kr
from keras_robust.core.objectives import Margin
from keras_robust.evaluation import runner
from keras_robust.evaluation.journal import Journal
from keras_robust.layers import (
    AuxiliaryLogits,
    ImageConvolution,
    MixtureBatchNormalization,
    PerImageStandardization,
    ReversibleBlocks,
)
from keras_robust.training import build

BATCH, CLASSES = 4, 3
BALL = kr.Linf(0.1)
ATTACK = kr.attacks.PGD(BALL, steps=2, clean_start_probability=0.2)
KL_ATTACK = kr.attacks.PGD(BALL, steps=2, objective="kl_divergence", random_start="normal")
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ONE_HOT = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
AUTOATTACK = kr.evaluation.AutoAttack(kr.Linf(0.12))
EVALUATED = 20  # images

CONFIG = {
    "config_format": 1,
    "dataset": "mnist_small",
    "train_split": "train[:96]",
    "validation_split": "train[96:160]",
    "image_size": 8,
    "classifier": {"name": "lenet"},
    "method": {"name": "adversarial_logit_pairing", "pairing_weight": 0.5},
    "attack": {"name": "pgd", "epsilon": 0.2, "steps": 2},
    "validation_attack": {"name": "fgsm", "epsilon": 0.1},
    "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": {"name": "one_cycle", "peak": 0.1}},
    "batch_size": 32,
    "epochs": 2,
}


def initializer(seed: int) -> keras.initializers.Initializer:
    """Returns an initializer that draws the same weights every time."""
    return keras.initializers.GlorotUniform(seed)


def convolutional(
    *normalization: keras.Layer, seed: int = 0, decay: float = 0.0, classes: int = CLASSES
) -> keras.Model:
    """Returns a convolution, a normalisation where one is given, and logits."""
    regularizer = keras.regularizers.L2(decay) if decay else None
    images = keras.Input((8, 8, 1), name="images")
    x = keras.layers.Conv2D(
        4, 3, 2, kernel_initializer=initializer(seed), kernel_regularizer=regularizer, name="convolution"
    )(images)
    for layer in normalization:
        x = layer(x)
    x = keras.layers.Flatten(name="flatten")(keras.layers.ReLU(name="relu")(x))
    logits = keras.layers.Dense(classes, kernel_initializer=initializer(seed + 1), name="logits")(x)
    return keras.Model(images, logits, name="convolutional")


def with_auxiliary_logits() -> keras.Model:
    """Returns a classifier with a second head."""
    images = keras.Input((8, 8, 1), name="images")
    x = keras.layers.Conv2D(4, 3, 2, activation="relu", kernel_initializer=initializer(0), name="convolution")(images)
    x = keras.layers.Flatten(name="flatten")(x)
    logits = keras.layers.Dense(CLASSES, kernel_initializer=initializer(1), name="logits")(x)
    further = keras.layers.Dense(CLASSES, kernel_initializer=initializer(2), name="further")(x)
    return keras.Model(images, AuxiliaryLogits(0.3, name="auxiliary")([logits, further]), name="auxiliary_logits")


def of_own_layers() -> keras.Model:
    """Returns a classifier with the layers of the toolkit that no other one here has."""

    def halves(seed: int) -> keras.Model:
        convolution = keras.layers.Conv2D(
            2, 3, padding="same", kernel_initializer=initializer(seed), name="convolution"
        )
        return keras.Sequential([keras.Input((8, 8, 2)), convolution], name=f"half_{seed}")

    images = keras.Input((8, 8, 1), name="images")
    x = PerImageStandardization(name="standardization")(images)
    x = ImageConvolution(4, 3, activation="relu", kernel_initializer=initializer(0), name="image_convolution")(x)
    x = keras.layers.Flatten(name="flatten")(ReversibleBlocks([halves(1), halves(2)], name="reversible")(x))
    logits = keras.layers.Dense(CLASSES, kernel_initializer=initializer(3), name="logits")(x)
    return keras.Model(images, logits, name="of_own_layers")


def batch_normalization() -> keras.Layer:
    """Returns a batch normalisation."""
    return keras.layers.BatchNormalization(momentum=0.9, name="normalization")


def mixture() -> keras.Layer:
    """Returns a mixture batch normalisation."""
    return MixtureBatchNormalization(momentum=0.9, name="normalization")


def adam() -> keras.optimizers.Optimizer:
    """Returns Adam."""
    return keras.optimizers.Adam(1e-2)


def momentum(**options) -> keras.optimizers.Optimizer:
    """Returns gradient descent with momentum."""
    return keras.optimizers.SGD(0.1, momentum=0.9, **options)


METHODS = {
    "robust_model": lambda: (kr.RobustModel(convolutional(), ATTACK, seed=3), adam()),
    "adversarial_training": lambda: (
        kr.AdversarialTraining(
            convolutional(batch_normalization()), ATTACK, clean_fraction=0.5, clean_weight=0.3, validation_attack=ATTACK
        ),
        momentum(nesterov=True),
    ),
    "adversarial_logit_pairing": lambda: (
        kr.AdversarialLogitPairing(
            convolutional(batch_normalization()), ATTACK, pairing_weight=0.7, pairing_loss="huber", seed=3
        ),
        adam(),
    ),
    "natural_training": lambda: (kr.NaturalTraining(convolutional(), input_noise=0.1), momentum()),
    "clean_logit_pairing": lambda: (kr.CleanLogitPairing(convolutional(), input_noise=0.1), momentum()),
    "logit_squeezing": lambda: (kr.LogitSqueezing(convolutional(), input_noise=0.1), momentum()),
    "mixup": lambda: (kr.Mixup(convolutional()), momentum()),
    "feature_pairing": lambda: (kr.FeaturePairing(convolutional(), ATTACK, layers=["convolution"]), momentum()),
    "trades": lambda: (kr.TRADES(convolutional(batch_normalization()), KL_ATTACK), momentum()),
    "mart": lambda: (kr.MART(convolutional(), ATTACK), momentum()),
    "virtual_adversarial_training": lambda: (
        kr.VirtualAdversarialTraining(
            convolutional(), kr.attacks.VirtualAdversarial(kr.L2(0.5)), direction="reverse", seed=5
        ),
        momentum(),
    ),
    "free_adversarial_training": lambda: (
        kr.FreeAdversarialTraining(convolutional(), kr.attacks.FGSM(BALL), replays=3),
        keras.optimizers.SGD(kr.optimizers.one_cycle(12, peak=0.2), momentum=0.9),
    ),
    "stale_adversarial_training": lambda: (
        kr.StaleAdversarialTraining(convolutional(), ATTACK, staleness=2),
        momentum(),
    ),
    "fast_adversarial_training": lambda: (
        kr.FastAdversarialTraining(
            convolutional(), kr.attacks.PGD(BALL, steps=1, step_size=0.125), validation_attack=ATTACK
        ),
        keras.optimizers.SGD(kr.optimizers.cyclic(4, peak=0.2)),
    ),
    "ensemble_adversarial_training": lambda: (
        kr.EnsembleAdversarialTraining(convolutional(), ATTACK, source_models=[convolutional(seed=7)], seed=1),
        momentum(),
    ),
    "weight_perturbation": lambda: (
        kr.TRADES(
            convolutional(batch_normalization(), decay=1e-3),
            KL_ATTACK,
            weight_perturbation=kr.AdversarialWeightPerturbation(gamma=0.1),
        ),
        momentum(),
    ),
    "epsilon_schedule": lambda: (
        kr.AdversarialTraining(
            convolutional(), ATTACK, epsilon_schedule=kr.optimizers.PiecewiseLinear([0, 4], [0.0, 1.0])
        ),
        keras.optimizers.SGD(kr.optimizers.WarmUp(kr.optimizers.step_decay(1, factor=0.1, epochs=(3,)), 2)),
    ),
    "mixture_batch_normalization": lambda: (
        kr.AdversarialTraining(convolutional(mixture()), ATTACK, clean_fraction=1.0, validation_attack=ATTACK),
        kr.optimizers.TensorFlow1RMSprop(1e-2, rho=0.9, momentum=0.9, epsilon=1.0),
    ),
    "training_mode": lambda: (
        kr.AdversarialTraining(
            convolutional(batch_normalization()),
            kr.attacks.PGD(kr.L2(0.5), steps=2, target="random"),
            joint_pass=False,
            attack_in_training_mode=True,
        ),
        momentum(),
    ),
    "own_layers": lambda: (
        kr.AdversarialTraining(
            of_own_layers(),
            kr.attacks.PGD(kr.L1(2.0), steps=2, objective=Margin(5.0)),
            validation_attack=kr.attacks.APGD(kr.L2(0.5), steps=3, objective="dlr"),
        ),
        keras.optimizers.SGD(kr.optimizers.Scaled(kr.optimizers.staircase_decay(1, epochs=1), 0.5)),
    ),
    "auxiliary_logits": lambda: (kr.AdversarialTraining(with_auxiliary_logits(), ATTACK), momentum()),
    "averages": lambda: (kr.AdversarialTraining(convolutional(), ATTACK), momentum(use_ema=True, ema_momentum=0.8)),
    "averages_batch_normalization": lambda: (
        kr.AdversarialTraining(convolutional(batch_normalization()), ATTACK),
        momentum(use_ema=True, ema_momentum=0.8),
    ),
    "accumulated_gradients": lambda: (
        kr.AdversarialTraining(convolutional(), ATTACK),
        momentum(gradient_accumulation_steps=4),
    ),
}


def data() -> dict[str, np.ndarray]:
    """Returns noisy images of three classes, each bright in another third, which a few steps learn to tell apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(24, dtype=np.int64) % CLASSES
    images = 0.6 * rng.uniform(size=(24, 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        image[:, 3 * label : 3 * label + 2] += 0.3
    return {
        "images": images.astype(np.float32),
        "labels": labels,
        "weights": rng.uniform(0.5, 1.5, 24).astype(np.float32),
    }


def two_steps(model: keras.Model, arrays: dict[str, np.ndarray], first: int) -> dict[str, float]:
    """Trains on the two batches from image number `first` on; returns the metrics."""
    chosen = slice(first, first + 2 * BATCH)
    images, labels, weights = (arrays[name][chosen] for name in ("images", "labels", "weights"))
    if isinstance(model, kr.Mixup):
        labels = keras.utils.to_categorical(labels, CLASSES)
    validation = (images, labels) if model.validation_attack else None
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, "validation_data": validation}
    history = model.fit(images, labels, sample_weight=weights, **options).history
    return {name: values[0] for name, values in history.items()}


def make_methods(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Writes a model of each method; returns what it comes to after two more steps."""
    ends: dict[str, np.ndarray] = {}
    for name, make in METHODS.items():
        model, optimizer = make()
        model.compile(optimizer, ONE_HOT if name == "mixup" else SPARSE, metrics=["accuracy"])
        two_steps(model, arrays, 0)
        model.save(folder / f"{name}.keras")
        loaded = keras.models.load_model(folder / f"{name}.keras")
        metrics = two_steps(loaded, arrays, 8)
        images, labels = arrays["images"][16:], arrays["labels"][16:]
        if name == "mixup":
            labels = keras.utils.to_categorical(labels, CLASSES)
        evaluated = loaded.evaluate(images, labels, batch_size=BATCH, verbose=0, return_dict=True)
        ends[f"{name}/metrics"] = np.array(json.dumps({"fit": metrics, "evaluate": evaluated}))
        for index, weight in enumerate(loaded.classifier.get_weights()):
            ends[f"{name}/weight/{index}"] = weight
        for key, state in loaded.replica_state.items():
            ends[f"{name}/state/{key}"] = state.to_array()
        print(name, metrics, evaluated, flush=True)
    return ends


def train_classifier(seed: int, arrays: dict[str, np.ndarray]) -> keras.Model:
    """Returns a classifier that is right most of the time."""
    classifier = convolutional(batch_normalization(), seed=seed)
    model = kr.AdversarialTraining(classifier, kr.attacks.FGSM(kr.Linf(0.05)))
    model.compile(keras.optimizers.Adam(0.02), SPARSE)
    model.fit(arrays["images"], arrays["labels"], batch_size=8, epochs=12, shuffle=False, verbose=0)
    return classifier


def save(report: kr.Report, folder: pathlib.Path) -> None:
    """Writes the record and the samples of a report."""
    with tempfile.TemporaryDirectory() as temporary:
        report.save(temporary)
        folder.mkdir(parents=True)
        for name in ("record.json", "samples.npz"):
            shutil.copy(pathlib.Path(temporary) / name, folder)


def make_reports(folder: pathlib.Path, model: keras.Model, another: keras.Model, test: tuple) -> None:
    """Writes the records of PGD, with every analysis, of PGD as a black box, and of AutoAttack."""
    quiet = {"batch_size": 8, "verbose": False}
    pgd, evaluation = kr.attacks.PGD(kr.Linf(0.12), steps=10, restarts=2), kr.evaluation
    curve = kr.attacks.PGD(kr.Linf(0.12), steps=8)
    analyses = {
        "iterations": lambda: evaluation.iteration_curve(model, test, curve, (1, 2, 8), **quiet),
        "epsilons": lambda: evaluation.epsilon_curve(model, test, curve, (0.05, 0.2, math.inf), **quiet),
        "transfer": lambda: evaluation.transfer_matrix({"first": model, "second": another}, test, curve, **quiet),
        "surface": lambda: evaluation.loss_surface(model, test, 0.1, points=5, examples=2, batch_size=8),
        "large epsilon": lambda: evaluation.large_epsilon_images(
            model, test, kr.attacks.BIM(kr.Linf(0.4), steps=8), examples=3, batch_size=8
        ),
        "normalisation": lambda: evaluation.normalization_statistics(model, test, curve, batch_size=8),
    }
    named = {**quiet, "dataset_name": "thirds"}
    save(kr.evaluate(model, test, pgd, analyses=analyses, checks=True, **named), folder / "pgd")
    save(kr.evaluate(model, test, [pgd, curve], source=another, top_k=2, **named), folder / "black_box")
    save(kr.evaluate(model, test, AUTOATTACK, **named), folder / "autoattack")


class Killed(BaseException):
    """Ends an evaluation or a run."""


@contextlib.contextmanager
def killed_after(saves: int):
    """Ends an evaluation when its progress has been saved so often, which is after every block of an attack."""
    own, left = Journal.save, [saves]

    def save_progress(self, name, arrays):
        own(self, name, arrays)
        left[0] -= 1
        if not left[0]:
            raise Killed

    runner.SECONDS_BETWEEN_SAVES, before = 0.0, runner.SECONDS_BETWEEN_SAVES
    Journal.save = save_progress
    try:
        yield
    except Killed:
        return
    finally:
        Journal.save, runner.SECONDS_BETWEEN_SAVES = own, before
    raise RuntimeError("The evaluation ended before it was killed.")


ATTACKS = [
    kr.attacks.PGD(kr.Linf(0.12), steps=5, restarts=3),
    kr.attacks.APGD(kr.Linf(0.12), steps=20, restarts=2),
    kr.attacks.FAB(kr.Linf(0.12), steps=10),
    kr.attacks.Square(kr.Linf(0.12), queries=60),
]
KILLED_AFTER = {"in_pgd": 2, "in_apgd": 9, "in_fab": 28, "in_square": 45}  # saves, one after each block of an attack


def make_journals(folder: pathlib.Path, model: keras.Model, test: tuple) -> None:
    """Writes the progress of killed evaluations, and the record of an undisturbed one."""
    folder.mkdir()
    options = {"batch_size": 8, "seed": 2, "verbose": False, "checks": False}
    whole = kr.evaluate(model, test, ATTACKS, **options)
    (folder / "attacks.json").write_text(json.dumps(whole.record, indent=1) + "\n")
    for name, saves in KILLED_AFTER.items():
        with killed_after(saves):
            kr.evaluate(model, test, ATTACKS, journal=folder / name, **options)
        print(name, whole, sorted(path.name for path in (folder / name).iterdir()), flush=True)
        resumed = kr.evaluate(model, test, ATTACKS, journal=shutil.copytree(folder / name, folder / "copy"), **options)
        shutil.rmtree(folder / "copy")
        for attack, details in whole.record["details"].items():
            for field in ("predictions", "ranks", "attacked"):
                assert resumed.record["details"][attack][field] == details[field], (name, attack, field)
    with killed_after(40):
        kr.evaluate(model, test, AUTOATTACK, journal=folder / "autoattack", **options)


class KillAt(keras.callbacks.Callback):
    """Ends a run before a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        """Looks at the step."""
        if int(self.model.steps_taken.numpy()) == self.step:
            raise Killed


def make_workdir(output: pathlib.Path) -> None:
    """Writes the folder of a killed run, and the end of an undisturbed one.

    The classifier is far smaller than a LeNet; a run that goes on does not build it, as it is in last.keras.
    """
    build.CLASSIFIERS["lenet"] = lambda: convolutional(batch_normalization(), classes=10)
    with tempfile.TemporaryDirectory() as temporary:
        options = {"data_dir": f"{temporary}/data", "checkpoint_steps": 2, "verbose": 0}
        model = kr.training.train(CONFIG, f"{temporary}/whole", **options)
        np.savez(output / "workdir.npz", *model.classifier.get_weights())
        shutil.copy(f"{temporary}/whole/history.csv", output)
        with contextlib.suppress(Killed):
            kr.training.train(CONFIG, output / "workdir", callbacks=[KillAt(5)], **options)
        shutil.rmtree(output / "workdir" / "tensorboard")
        resumed = kr.training.train(CONFIG, shutil.copytree(output / "workdir", f"{temporary}/again"), **options)
        for first, second in zip(model.get_weights(), resumed.get_weights(), strict=True):
            np.testing.assert_allclose(first, second, atol=1e-6)
    print((output / "history.csv").read_text(), [path.name for path in (output / "workdir").iterdir()])


def main(folder: str) -> None:
    """Makes everything."""
    output = pathlib.Path(folder)
    output.mkdir(parents=True)
    sys.argv = [pathlib.Path(sys.argv[0]).name]  # records hold the command, which is the same everywhere
    arrays = data()
    np.savez_compressed(output / "data.npz", **arrays)
    with tempfile.TemporaryDirectory() as temporary:
        np.savez_compressed(output / "methods.npz", **make_methods(pathlib.Path(temporary), arrays))
        shutil.make_archive(str(output / "methods"), "zip", temporary)
    model, another = train_classifier(0, arrays), train_classifier(4, arrays)
    model.save(output / "classifier.keras")
    another.save(output / "another.keras")
    test = (arrays["images"][:EVALUATED], arrays["labels"][:EVALUATED])
    make_reports(output / "reports", model, another, test)
    make_journals(output / "journals", model, test)
    make_workdir(output)


if __name__ == "__main__":
    main(sys.argv[1])

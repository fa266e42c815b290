"""Configs: complete, checked, and turned into the objects that they name."""

import keras
import ml_collections
import pytest

import keras_robust as kr
from keras_robust.training import build, config

SMALL = {
    "config_format": 1,
    "dataset": "mnist_small",
    "train_split": "train[:64]",
    "validation_split": "train[64:96]",
    "classifier": {"name": "lenet"},
    "method": {"name": "adversarial_training", "clean_fraction": 0.5},
    "attack": {"name": "pgd", "epsilon": 0.3, "steps": 2, "step_size": 0.1},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
    "batch_size": 32,
    "epochs": 1,
}


@pytest.mark.parametrize("wrap", [dict, ml_collections.ConfigDict])
def test_a_config_is_completed_with_defaults(wrap):
    resolved = config.resolve(wrap(SMALL))
    assert resolved == {
        **SMALL,
        "image_size": 0,
        "on_bad_image": "error",
        "augmentation": None,
        "validation_attack": None,
        "epsilon_warmup_epochs": 0,
        "weight_perturbation": None,
        "freeze_batch_statistics_epochs": 0,
        "early_stopping_patience": 0,
        "label_smoothing": 0.0,
        "rates_for_batch_size": 0,
        "steps_per_epoch": 0,
        "steps_per_execution": 1,
        "precision": "float32",
        "seed": 0,
        "deterministic": False,
    }


BAD_FIELDS = {
    "misspelt": ({"atack": 1}, "did you mean 'attack'.*atack=1"),
    "unknown": ({"xyz": 1}, "xyz=1"),
    "another version": ({"config_format": 0}, "config_format=0"),
    "batch size": ({"batch_size": 0}, "batch_size=0"),
    "epochs": ({"epochs": 1.5}, "epochs=1.5"),
    "seed": ({"seed": -1}, "seed=-1"),
    "label smoothing": ({"label_smoothing": 1}, "label_smoothing=1"),
    "warm-up": ({"epsilon_warmup_epochs": -1}, "epsilon_warmup_epochs=-1"),
    "precision": ({"precision": "float16"}, "precision='float16'"),
    "steps per execution": ({"steps_per_execution": 0}, "steps_per_execution=0"),
    "rates": ({"rates_for_batch_size": -1}, "rates_for_batch_size=-1"),
    "image size": ({"image_size": -1}, "image_size=-1"),
    "one side of an image": ({"image_size": [32]}, r"image_size=\[32\]"),
    "bad images": ({"on_bad_image": "ignore"}, "on_bad_image='ignore'"),
    "patience": ({"early_stopping_patience": 0.5}, "early_stopping_patience=0.5"),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_a_bad_field_is_named(name):
    change, message = BAD_FIELDS[name]
    with pytest.raises(ValueError, match=message):
        config.resolve({**SMALL, **change})


@pytest.mark.parametrize("field", ["dataset", "method", "epochs"])
def test_a_missing_field_is_named(field):
    with pytest.raises(ValueError, match=rf"lacks the fields \['{field}'\]"):
        config.resolve({name: value for name, value in SMALL.items() if name != field})


BAD_SECTIONS = {
    "classifier": ({"classifier": {"name": "lenets"}}, "classifier='lenets'"),
    "method": ({"method": {"name": "alp"}}, "method='alp'"),
    "no attack": ({"attack": None}, "attack"),
    "an attack too many": ({"method": {"name": "natural_training"}}, "natural_training"),
    "weight perturbation": ({"weight_perturbation": {"gama": 1}}, "gama"),
    "an object for a name": ({"method": {"name": kr.attacks.FGSM(kr.Linf(0.1))}}, "method=PGD.*of type PGD"),
    "argument of a method": ({"method": {"name": "adversarial_training", "clean": 1}}, "clean"),
    "attack": ({"attack": {"name": "pdg", "epsilon": 0.1}}, "attack='pdg'"),
    "norm": ({"attack": {"name": "pgd", "norm": "linfinity", "epsilon": 0.1}}, "norm='linfinity'"),
    "no epsilon": ({"attack": {"name": "pgd"}}, "must have an epsilon"),
    "argument of an attack": ({"attack": {"name": "pgd", "epsilon": 0.1, "stesp": 3}}, "stesp"),
    "optimizer": ({"optimizer": {"name": "adamm", "learning_rate": 1}}, "optimizer='adamm'"),
    "no learning rate": ({"optimizer": {"name": "adam"}}, "must have a learning_rate"),
    "argument of an optimizer": ({"optimizer": {"name": "adam", "learning_rate": 1, "momentums": 1}}, "momentums"),
    "schedule": ({"optimizer": {"name": "adam", "learning_rate": {"name": "cycle"}}}, "learning_rate='cycle'"),
}


@pytest.mark.parametrize("name", BAD_SECTIONS)
def test_a_bad_section_is_named(name):
    change, message = BAD_SECTIONS[name]
    with pytest.raises(ValueError, match=message):
        build.build_model({**config.resolve(SMALL), **change}, 1, 1)


def test_a_config_becomes_the_model_that_it_names():
    model = build.build_model(config.resolve({**SMALL, "seed": 7}), 10, 20)
    assert type(model) is kr.AdversarialTraining
    assert (model.clean_fraction, model.seed, model.validation_attack) == (0.5, 7, None)
    assert model.attack == kr.attacks.PGD(kr.Linf(0.3), steps=2, step_size=0.1)
    assert model.compiled
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)


def test_label_smoothing_takes_one_hot_labels():
    model = build.build_model(config.resolve({**SMALL, "label_smoothing": 0.1}), 10, 20)
    assert isinstance(model.loss, keras.losses.CategoricalCrossentropy)
    assert model.loss.get_config()["label_smoothing"] == 0.1


def test_mixup_takes_one_hot_labels():
    mixup = config.resolve({**SMALL, "method": {"name": "mixup"}, "attack": None})
    assert build.needs_one_hot_labels(mixup)
    assert isinstance(build.build_model(mixup, 10, 20).loss, keras.losses.CategoricalCrossentropy)
    assert not build.needs_one_hot_labels(config.resolve(SMALL))


def test_options_of_every_method():
    options = {"epsilon_warmup_epochs": 2, "weight_perturbation": {"gamma": 0.02}}
    model = build.build_model(config.resolve({**SMALL, **options}), 10, 50)
    assert model.weight_perturbation == kr.AdversarialWeightPerturbation(gamma=0.02)
    assert [float(model.epsilon_schedule(step)) for step in (0, 10, 20, 30)] == [0.0, 0.5, 1.0, 1.0]


def test_schedules_count_the_updates_of_free_training():
    """Four updates per batch: the peak of one cycle is at step 60 of 200, not 15 of 50."""
    free = {"method": {"name": "free_adversarial_training", "replays": 4}, "attack": {"name": "fgsm", "epsilon": 0.3}}
    optimizer = {"name": "adam", "learning_rate": {"name": "one_cycle", "peak": 1.0}}
    model = build.build_model(config.resolve({**SMALL, **free, "optimizer": optimizer}), 10, 50)
    model.optimizer.iterations.assign(60)
    assert float(model.optimizer.learning_rate) == pytest.approx(1.0)


def test_epochs_of_schedules_are_passes_of_free_training():
    """Four updates per batch, ten batches per epoch: a drop after the second epoch is at update 80, not 20."""
    free = {"method": {"name": "free_adversarial_training", "replays": 4}, "attack": {"name": "fgsm", "epsilon": 0.3}}
    optimizer = {"name": "sgd", "learning_rate": {"name": "step_decay", "initial": 1.0, "epochs": [2]}}
    model = build.build_model(config.resolve({**SMALL, **free, "optimizer": optimizer}), 10, 50)
    rates = []
    for update in (79, 80):
        model.optimizer.iterations.assign(update)
        rates.append(float(model.optimizer.learning_rate))
    assert rates == pytest.approx([1.0, 0.1])


def test_schedules_count_the_batches_of_accumulated_gradients():
    """Two batches make an update: the peak of one cycle is after 30 of 100 batches, at update 15 of 50."""
    schedule = {"name": "one_cycle", "peak": 1.0}
    optimizer = build.build_optimizer(
        {"name": "sgd", "learning_rate": schedule, "gradient_accumulation_steps": 2}, 10, 100
    )
    optimizer.variables[0].assign(30)  # batches; `iterations` are updates
    assert float(optimizer.learning_rate) == pytest.approx(1.0)


@pytest.mark.parametrize("rate", [0.1, {"name": "step_decay", "initial": 0.1, "epochs": [1000]}])
def test_rates_are_scaled_with_the_batch_size(rate):
    """0.1 for batches of 256 is 0.0125 for 32."""
    optimizer = {"name": "sgd", "learning_rate": rate}
    model = build.build_model(config.resolve({**SMALL, "optimizer": optimizer, "rates_for_batch_size": 256}), 10, 20)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.0125)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_is_that_of_the_classifier(dtype):
    """Weights and logits are float32; float16 has its loss scaled."""
    model = build.build_model(config.resolve({**SMALL, "precision": f"mixed_{dtype}"}), 10, 20)
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.compute_dtype for layer in model.classifier.layers} == {dtype, "float32"}
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (dtype == "float16")


def test_one_cycle_rises_to_its_peak_and_falls_to_zero():
    """Linear from peak / 25 over 30 of 100 steps, then peak (1 + cos(pi t)) / 2."""
    rate = kr.optimizers.one_cycle(100, peak=1.0)
    values = [float(rate(step)) for step in (0, 15, 30, 65, 100)]
    assert values == pytest.approx([0.04, 0.52, 1.0, 0.5, 0.0], abs=1e-6)
    assert float(kr.optimizers.one_cycle(100, peak=1.0, warmup_fraction=0.0)(0)) == 1.0
    with pytest.raises(ValueError, match="warmup_fraction=1"):
        kr.optimizers.one_cycle(100, peak=1.0, warmup_fraction=1)


def test_staircase_decay_is_that_of_the_logit_pairing_paper():
    """0.045 * 0.94^floor(epoch / 2)."""
    rate = kr.optimizers.staircase_decay(10)
    assert [float(rate(step)) for step in (0, 19, 20, 45)] == pytest.approx(
        [0.045, 0.045, 0.045 * 0.94, 0.045 * 0.94**2]
    )


def test_schedules_know_the_length_of_the_run():
    options = {"name": "adam", "learning_rate": {"name": "one_cycle", "peak": 0.1, "warmup_fraction": 0.5}}
    optimizer = build.build_optimizer(options, 10, 40)
    optimizer.iterations.assign(20)
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    options = {"name": "rmsprop", "learning_rate": {"name": "staircase_decay", "initial": 0.1, "epochs": 1}}
    optimizer = build.build_optimizer(options, 10, 40)
    optimizer.iterations.assign(10)
    assert float(optimizer.learning_rate) == pytest.approx(0.094)

"""Plans of configs: their arithmetic, what they refuse, and what was measured and published."""

import json

import plan_accuracy
import plan_published
import pytest

from keras_robust.tools.planning import UTILIZATION, plan

pytestmark = pytest.mark.graph

CONFIG = {
    "config_format": 1,
    "dataset": "mnist",
    "train_split": "train[:59000]",
    "validation_split": "train[59000:]",
    "classifier": {"name": "lenet"},
    "method": {"name": "adversarial_training"},
    "attack": {"name": "pgd", "epsilon": 0.3, "steps": 8},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
    "batch_size": 128,
    "epochs": 6,
}
VALIDATED = CONFIG | {"validation_attack": {"name": "pgd", "epsilon": 0.3, "steps": 20}}


def test_a_plan_adds_up():
    planned = plan(VALIDATED, "8xH100", price_per_device_hour=2.0)
    assert [part.name for part in planned.parts] == ["attack", "update", "all-reduce"]
    assert planned.parts[0].work == "8 x input gradient of 16 images"
    assert planned.step_seconds == sum(part.seconds for part in planned.parts)
    assert planned.parameters == 3_274_634
    assert planned.parts[-1].traffic == 4 * 3_274_634
    assert (planned.steps_per_epoch, planned.validation_steps) == (460, 8)
    seconds = 6 * (460 * planned.step_seconds + 8 * planned.validation_step_seconds)
    assert planned.hours == pytest.approx(seconds / 3600)
    assert planned.device_hours == 8 * planned.hours
    assert planned.price == 2 * planned.device_hours


def test_half_the_utilization_is_twice_the_time():
    fast, slow = (plan(CONFIG, "1xA100-40GB", utilization=share) for share in (0.5, 0.25))
    assert slow.hours == pytest.approx(2 * fast.hours)


def test_free_training_reduces_gradients_once_per_replay():
    """And its batches on TPU chips are shared as on GPUs."""
    config = CONFIG | {
        "method": {"name": "free_adversarial_training", "replays": 4},
        "attack": {"name": "fgsm", "epsilon": 0.3},
    }
    planned = plan(config, "tpu-v4-8")
    assert [part.name for part in planned.parts] == ["update", "all-reduce"]
    assert planned.parts[0].work == "4 x training with input gradient of 32 images"
    assert planned.parts[1].traffic == 4 * 4 * 3_274_634


def test_a_batch_that_does_not_fit_is_called_so():
    planned = plan(CONFIG | {"batch_size": 59_000}, "1xT4")
    assert planned.memory.largest_batch < 59_000
    assert "THE BATCH DOES NOT FIT" in str(planned)
    assert "NOT FIT" not in str(plan(CONFIG, "1xT4"))


def test_an_automatic_dtype_is_that_of_the_accelerator():
    """Whatever this machine would choose: V100 have no bfloat16."""
    automatic = CONFIG | {"attack": CONFIG["attack"] | {"compute_dtype": "auto"}}
    for accelerators, dtype in (("1xV100-16GB", "float32"), ("1xH100", "bfloat16"), ("tpu-v4-8", "bfloat16")):
        named = CONFIG | {"attack": CONFIG["attack"] | {"compute_dtype": dtype}}
        planned = plan(automatic, accelerators)
        assert planned.to_dict() == plan(named, accelerators).to_dict()
        assert planned.attack == f"PGD-8 (Linf 0.3, step 0.09375, {dtype})"


def test_steps_are_those_of_the_config():
    planned = plan(CONFIG | {"steps_per_epoch": 100, "epochs": 3}, "1xT4")
    assert (planned.steps_per_epoch, planned.epochs) == (100, 3)
    other = plan(CONFIG | {"dataset": "mine"}, "1xT4", examples=1280, validation_examples=100)
    assert (other.steps_per_epoch, other.validation_steps) == (10, 1)


def test_a_plan_is_printed_and_saved(tmp_path):
    planned = plan(VALIDATED, "2xV100-16GB", price_per_device_hour=2.5)
    text = str(planned)
    for words in ("AdversarialTraining of lenet on 2 x V100-16GB", "3,274,634", "largest batch", "2,760 in 6 epochs"):
        assert words in text
    assert f"{planned.price:,.2f} at 2.5 per device hour" in text
    assert "price" not in str(plan(CONFIG, "2xV100-16GB"))
    planned.save(tmp_path / "plans" / "plan.json")
    saved = json.loads((tmp_path / "plans" / "plan.json").read_text())
    assert saved == planned.to_dict()
    assert saved["hours"] == planned.hours
    assert saved["memory"]["largest_batch"] == planned.memory.largest_batch


@pytest.mark.parametrize(
    ("change", "accelerators", "options", "message"),
    [
        ({}, "8xZ80", {}, "accelerators='8xZ80'"),
        ({}, "3xH100", {}, "batch_size=128, replicas=3"),
        ({}, "1000xcpu", {}, "accelerators='1000xcpu'"),
        ({}, "8xH100", {"utilization": 0.0}, "utilization=0.0"),
        ({}, "8xH100", {"utilization": 70}, "utilization=70"),
        ({}, "8xH100", {"price_per_device_hour": -1.0}, "price_per_device_hour=-1.0"),
        ({}, "8xH100", {"examples": 0}, "examples=0"),
        ({"dataset": "mine"}, "8xH100", {}, "dataset='mine'"),
        ({"epoch": 3}, "8xH100", {}, "epoch=3"),
        ({"precision": "mixed_bfloat16"}, "8xV100-16GB", {}, r"in \['bfloat16'\]"),
        ({"attack": {"name": "square", "epsilon": 0.3}}, "8xH100", {}, "Square"),
    ],
)
def test_what_cannot_be_planned_is_named(change, accelerators, options, message):
    with pytest.raises(ValueError, match=f"Received: .*{message}"):
        plan(CONFIG | change, accelerators, **options)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["lenet", "resnet20"])
def test_estimates_for_this_machine_are_within_30_percent_of_its_steps(network):
    for result in plan_accuracy.compare(network, plan_accuracy.METHODS, steps=7, batch_size=128, rounds=9):
        assert 0.7 < result["ratio"] < 1.3, result


@pytest.mark.slow
def test_the_default_utilization_is_the_median_of_published_speeds():
    results = [plan_published.compare(*speed) for speed in plan_published.SPEEDS]
    assert plan_published.median(results) == pytest.approx(UTILIZATION, abs=0.01)


@pytest.mark.slow
def test_the_published_hours_of_a_resnet_152_are_within_15_percent():
    """With the default utilization, which is from other runs."""
    assert plan_published.plan_resnet152().hours == pytest.approx(52, rel=0.15)

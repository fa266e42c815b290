"""The flags of launch/evaluate.py become the attack and the arguments that they name; evaluation only pretends here."""

import importlib.util
import pathlib

import pytest
from absl import flags

import keras_robust as kr

SCRIPT = pathlib.Path(__file__).parents[2] / "launch" / "evaluate.py"
LINF, L2 = kr.Linf(0.3), kr.L2(0.3)


class Evaluation:
    """Stands for `evaluate_suite`, and for the report that it returns."""

    def __call__(self, suite, model, dataset, attack, *, journal, **options):
        self.arguments = {"suite": suite, "model": model, "dataset": dataset, "attack": attack, **options}
        pathlib.Path(journal).mkdir(parents=True)
        return self

    def save(self, folder):
        """Writes nothing."""


@pytest.fixture
def evaluated(monkeypatch, tmp_path, new_flags):
    """Returns the arguments with which the script loads the data and evaluates, given flags."""
    spec = importlib.util.spec_from_file_location("launch_evaluate", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    evaluation = Evaluation()
    monkeypatch.setattr(kr.evaluation, "evaluate_suite", evaluation)
    monkeypatch.setattr(kr.evaluation, "dataset_for", lambda *names, **options: {"names": names, **options})

    def run(*arguments):
        required = ["--model=M", "--dataset=D", "--epsilon=0.3", f"--output={tmp_path}"]
        flags.FLAGS(["evaluate.py", *required, *arguments])
        script.main([])
        return evaluation.arguments

    return run


ATTACKS = {
    "": kr.attacks.PGD(LINF),
    "--steps=40 --step_size=0.01 --restarts=5": kr.attacks.PGD(LINF, steps=40, step_size=0.01, restarts=5),
    "--norm=l2 --target=random": kr.attacks.PGD(L2, target="random"),
    "--attack=bim --objective=margin": kr.attacks.BIM(LINF, objective="margin"),
    "--attack=apgd --objective=dlr --targeted=9": kr.attacks.APGD(LINF, objective="dlr", targeted=9),
    "--attack=fab --targets=9": kr.attacks.FAB(LINF, targets=9),
    "--attack=square --queries=7": kr.attacks.Square(LINF, queries=7),
}


@pytest.mark.parametrize("given", ATTACKS)
def test_flags_are_an_attack(evaluated, given):
    assert evaluated(*given.split())["attack"] == ATTACKS[given]


def test_flags_are_arguments(evaluated):
    data = {"split": "test[:9]", "batch_size": 3, "image_size": 8, "data_dir": "F", "download": True}
    others = {"suite": "all", "source": "S", "version": "plus", "top_k": 5, "seed": 7, "branch": "clean"}
    given = [f"--{name}={value}" for name, value in {**data, **others}.items()]
    switches = ("--keep_adversarials", "--compile_attack=False")
    arguments = evaluated(*given, "--models=A=a,B=b", "--transfer_steps=1,4", *switches)
    assert arguments == {
        **others,
        "keep_adversarials": True,
        "model": "M",
        "dataset": {"names": ("M", "D", data.pop("split")), "order": "tfds", "on_bad_image": "error", **data},
        "attack": kr.attacks.PGD(LINF),
        "models": {"A": "a", "B": "b"},
        "transfer_steps": [1, 4],
        "batch_size": 3,
        "dataset_name": "D test[:9], TFDS order",
        "compile_attack": False,
    }


@pytest.mark.parametrize(("given", "expected"), [([], "auto"), (["--compile_attack=True"], True)])
def test_xla_is_a_choice(evaluated, given, expected):
    assert evaluated(*given)["compile_attack"] is expected


def test_images_that_are_not_square_and_bad_ones(evaluated):
    arguments = evaluated("--image_size=64x96", "--on_bad_image=skip")
    assert (arguments["dataset"]["image_size"], arguments["dataset"]["on_bad_image"]) == ((64, 96), "skip")


def test_the_official_order_is_taken_and_recorded(evaluated):
    arguments = evaluated("--split=test[:9]", "--official_order")
    assert arguments["dataset"]["order"] == "official"
    assert arguments["dataset_name"] == "D test[:9], official order"


@pytest.mark.parametrize(
    ("given", "ignored"),
    [
        ("--suite=autoattack --steps=1000 --attack=cw", "--attack --steps with --suite=autoattack"),
        ("--suite=paper --restarts=10", "--restarts with --suite=paper"),
        ("--suite=masking --version=rand", "--version with --suite=masking"),
        ("--version=rand", "--version with --suite=None"),
        ("--suite=curve --transfer_steps=1,4", "--transfer_steps with --suite=curve"),
    ],
)
def test_flags_that_play_no_part_are_refused(evaluated, given, ignored):
    with pytest.raises(ValueError, match=f"Received: {ignored}$"):
        evaluated(*given.split())

"""Jobs on Cloud TPU from first to last, with a gcloud that only pretends."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from keras_robust.tools import tpu_training
from keras_robust.tools.tpu_job import LOOKS, STEPS, DryRun, Job, execute
from keras_robust.tools.tpu_vm import TpuVm

ROOT = pathlib.Path(__file__).parents[2]


def vm(accelerator="v5e-8", **options):
    return TpuVm(**{"name": "digits", "accelerator": accelerator, "zone": "us-west4-a", "project": "p"} | options)


@pytest.fixture
def gcloud(fake_commands):
    return fake_commands("gcloud", "git")


@pytest.fixture
def job(training, gcloud, tmp_path):
    """Makes a job whose waits take no time, and counts them."""

    def make(the_vm, **options):
        sleeps: list[float] = []
        made = Job(
            the_vm,
            training,
            repository=str(ROOT),
            archive=f"{tmp_path}/keras_robust.tar.gz",
            output=str(tmp_path / "runs"),
            **{"run": execute, "sleep": sleeps.append} | options,
        )
        made.sleeps = sleeps
        return made

    return make


def verbs(calls):
    """Returns what each call of gcloud does, in a word."""
    words = []
    for call in calls:
        if call[0] == "gcloud":
            text = " ".join(call)
            marks = {"launch/train.py": "train", "start_grpc": "serve", "pip install": "install", "rsync": "fetch"}
            words.append(next((verb for mark, verb in marks.items() if mark in text), call[4]))
    return words


CREATED = ["describe", "create", "describe"]
INSTALLED = ["scp", "install", "scp"]


def test_the_whole_job(job, gcloud):
    gcloud.answer(describe=["NOT_FOUND", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    the_job = job(vm("v5e-64", spot=True, queued=True))
    the_job.do(STEPS)
    expected = [*CREATED, "describe", "describe", *INSTALLED, "serve", "train", "fetch", "delete"]
    assert verbs(gcloud.calls) == expected
    assert the_job.sleeps == [60, 60]
    assert [call[:1] + call[3:4] for call in gcloud.calls if call[0] == "git"] == [["git", "archive"]]


@pytest.mark.parametrize("exit_code", [75, 255])
def test_an_interrupted_run_is_started_again(job, gcloud, exit_code):
    gcloud.answer(describe=["READY"], **{"launch/train.py": [exit_code, exit_code, 0]})
    job(vm()).do(["train", "delete"])
    assert verbs(gcloud.calls) == ["train", "describe", "train", "describe", "train", "delete"]
    trains = [call for call in gcloud.calls if "launch/train.py" in " ".join(call)]
    assert trains[0] == trains[1] == trains[2]


@pytest.mark.parametrize("queued", [False, True])
def test_a_spot_vm_that_was_taken_away_is_created_again(job, gcloud, queued):
    lost, ready = ("SUSPENDED", "ACTIVE") if queued else ("PREEMPTED", "READY")
    gcloud.answer(
        describe=["NOT_FOUND", "CREATING", ready, lost, lost, "CREATING", ready], **{"launch/train.py": [255, 0]}
    )
    job(vm(spot=True, queued=queued)).do(STEPS)
    first = [*CREATED, "describe", *INSTALLED, "train"]
    again = ["describe", "describe", "delete", "create", "describe", "describe", *INSTALLED, "train"]
    assert verbs(gcloud.calls) == [*first, *again, "fetch", "delete"]


def test_a_vm_that_is_lost_while_it_is_waited_for_is_asked_for_again(job, gcloud):
    gcloud.answer(describe=["NOT_FOUND", "PROVISIONING", "SUSPENDING", "SUSPENDED", "SUSPENDED", "ACTIVE"])
    job(vm(spot=True, queued=True)).do(["create"])
    again = ["describe", "describe", "delete", "create", "describe"]
    assert verbs(gcloud.calls) == [*CREATED, "describe", *again, *INSTALLED]


def test_what_is_there_is_not_created_again(job, gcloud):
    gcloud.answer(describe=["READY"])
    job(vm()).do(["create", "install"])
    assert verbs(gcloud.calls) == ["describe", *INSTALLED]


def test_a_vm_that_is_repaired_is_waited_for(job, gcloud):
    gcloud.answer(describe=["REPAIRING", "REPAIRING", "READY"], **{"launch/train.py": [255, 0]})
    job(vm()).do(["train"])
    assert verbs(gcloud.calls) == ["train", "describe", "describe", "describe", *INSTALLED, "train"]


def test_an_error_of_the_program_ends_the_job_and_says_what_still_costs(job, gcloud):
    gcloud.answer(describe=["READY"], **{"launch/train.py": [1]})
    with pytest.raises(ChildProcessError, match=r"exit code 1.*gcloud compute tpus tpu-vm delete digits"):
        job(vm()).do(STEPS)
    assert verbs(gcloud.calls)[-2:] == ["train", "describe"]


def test_restarts_are_bounded(job, gcloud):
    gcloud.answer(describe=["READY"], **{"launch/train.py": [75]})
    with pytest.raises(ChildProcessError, match=r"exit code 75, restarts: 3"):
        job(vm(), max_restarts=3).do(["train"])
    assert verbs(gcloud.calls).count("train") == 4


@pytest.mark.parametrize("state", ["TERMINATED", "NOT_FOUND"])
def test_a_vm_that_is_not_spot_is_not_deleted(job, gcloud, state):
    gcloud.answer(describe=[state], **{"launch/train.py": [255]})
    with pytest.raises(ChildProcessError, match=state):
        job(vm()).do(["train"])
    assert "delete" not in verbs(gcloud.calls)
    if state != "NOT_FOUND":
        with pytest.raises(ChildProcessError, match="Delete it first"):
            job(vm()).do(["create"])


def test_a_creation_that_fails_ends_the_job(job, gcloud):
    gcloud.answer(describe=["NOT_FOUND"], create=[1])
    with pytest.raises(ChildProcessError, match=r"tpu-vm create digits .* exit code 1"):
        job(vm(spot=True)).do(STEPS)


def test_an_error_of_gcloud_is_not_taken_for_no_vm(job, gcloud):
    gcloud.answer(describe=[3])
    with pytest.raises(ChildProcessError, match="does not return the state of digits"):
        job(vm()).do(STEPS)
    assert verbs(gcloud.calls) == ["describe"]


@pytest.mark.parametrize("before", ["create", "train"])
def test_an_error_of_gcloud_in_the_middle_of_a_job_is_lived_through(job, gcloud, before):
    """What the VM is asked to do may be its first word: it is there, and costs."""
    if before == "create":
        gcloud.answer(describe=["NOT_FOUND", 3, 3, "CREATING", 3, "READY"])
        expected, sleeps = [*CREATED, *["describe"] * 4, *INSTALLED, "train"], [60] * 4
    else:
        gcloud.answer(describe=[3, 3, "READY"], **{"launch/train.py": [255, 0]})
        expected, sleeps = ["train", *["describe"] * 3, "train"], [60] * 3
    the_job = job(vm())
    the_job.do(STEPS[:3] if before == "create" else ["train"])
    assert verbs(gcloud.calls) == expected
    assert the_job.sleeps == sleeps


def test_a_job_that_gcloud_does_not_answer_any_more_says_what_may_still_cost(job, gcloud):
    gcloud.answer(describe=[3], **{"launch/train.py": [255]})
    with pytest.raises(ChildProcessError, match=r"does not return the state of digits.*tpu-vm delete digits"):
        job(vm()).do(["train"])
    assert verbs(gcloud.calls) == ["train", *["describe"] * LOOKS]


@pytest.mark.parametrize(
    ("steps", "options", "received"),
    [(["creat"], {}, "'creat'"), ([], {}, "''"), (["train"], {"max_restarts": -1}, "max_restarts=-1")],
)
def test_bad_job(job, gcloud, steps, options, received):
    with pytest.raises(ValueError, match=received):
        job(vm(), **options).do(steps)
    assert not gcloud.calls


@pytest.mark.parametrize("the_vm", [vm(), vm("v5e-64", spot=True, queued=True)], ids=["one host", "several"])
def test_a_dry_run_prints_what_a_run_would_do_and_does_nothing(job, gcloud, capfd, the_vm):
    job(the_vm, run=DryRun()).do(STEPS)
    assert not gcloud.calls
    printed = [shlex.split(line) for line in capfd.readouterr().out.splitlines() if not line.startswith("#")]
    gcloud.answer(describe=["NOT_FOUND", the_vm.ready_state])
    job(the_vm).do(STEPS)
    assert printed[-3][0] == "mkdir"
    assert [command for command in printed if command[0] != "mkdir"] == gcloud.calls


def test_the_documented_command_prints_the_documented_commands(gcloud):
    """Of docs/scale.md, through the launch script; what setup.py requires is left out there."""
    page = (ROOT / "docs/scale.md").read_text()
    command = re.search(r"    (python launch/tpu_vm\.py .*?)\n\n", page, re.DOTALL)[1].replace("\\\n", "")
    arguments = [*shlex.split(command)[1:], "--dry_run", "--", "--config.epochs=5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": "/tmp", "TF_CPP_MIN_LOG_LEVEL": "3"}
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "/tfds --config.epochs=5'" in ended.stdout
    requirements = shlex.join(tpu_training.requirements((ROOT / "setup.py").read_text())).replace("'", "'\"'\"'")
    printed = ended.stdout.replace(requirements, "REQUIREMENTS").replace(" --config.epochs=5", "")
    (documented,) = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    assert printed.replace(str(ROOT), "/home/me/keras_robust") == documented
    assert not gcloud.calls

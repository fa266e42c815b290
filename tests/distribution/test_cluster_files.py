"""The files for Slurm and Kubernetes: they are well formed, name flags that exist, and start workers as they say."""

import json
import os
import pathlib
import re
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
SLURM = ROOT / "launch/slurm_train.sh"
KUBERNETES = ROOT / "launch/kubernetes_jobset.yaml"
DEFINITIONS = [ROOT / "launch/train.py", ROOT / "keras_robust/training/training_flags.py"]
TRAIN_FLAGS = {name for path in DEFINITIONS for name in re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", path.read_text())}


@pytest.mark.parametrize("text", [SLURM.read_text(), KUBERNETES.read_text()], ids=["slurm", "kubernetes"])
def test_flags_of_the_training_script_exist(text):
    call = text[text.rindex("launch/train.py") :]
    named = set(re.findall(r"--(\w+)=", call.split("exit_code")[0]))
    assert "strategy" in named
    assert named <= TRAIN_FLAGS
    for config in re.findall(r"--config=([\w/.]+)", text):
        assert (ROOT / config).exists()


@pytest.fixture
def slurm(fake_commands, monkeypatch):
    """Runs the Slurm script; returns its exit code and the calls of srun and scontrol."""
    commands = fake_commands("srun", "scontrol")

    def run(exit_code, **environment):
        commands.answer(**{"launch/train.py": [exit_code]})
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        ended = subprocess.run(["bash", str(SLURM), "--config=c.py", "--workdir=with space"], check=False)
        return ended.returncode, commands.calls

    return run


def test_slurm_script_is_a_shell_script_that_sbatch_takes():
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    lines = SLURM.read_text().splitlines()
    options = [line.split()[1] for line in lines if line.startswith("#SBATCH")]
    assert {"--ntasks-per-node=1", "--requeue", "--open-mode=append"} <= set(options)
    assert any(re.fullmatch(r"--signal=TERM@\d+", option) for option in options)
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(number < first_command for number, line in enumerate(lines) if line.startswith("#SBATCH"))


def test_slurm_starts_a_task_per_node_with_the_arguments_of_the_script(slurm):
    exit_code, calls = slurm(0, PYTHON="python3")
    assert exit_code == 0
    train = ["python3", "launch/train.py", "--strategy=multi_worker", "--config=c.py", "--workdir=with space"]
    assert [call[-5:] for call in calls] == [train]


@pytest.mark.parametrize(
    ("exit_code", "environment", "requeued"),
    [(75, {}, True), (75, {"SLURM_RESTART_COUNT": "20"}, False), (1, {}, False), (143, {}, False)],
)
def test_slurm_job_is_queued_again_after_exit_code_75(slurm, exit_code, environment, requeued):
    ended_with, calls = slurm(exit_code, **environment)
    assert ended_with == exit_code
    assert (["scontrol", "requeue", "7"] in calls) == requeued


@pytest.fixture
def job_set():
    return next(item for item in yaml.safe_load_all(KUBERNETES.read_text()) if item["kind"] == "JobSet")


@pytest.fixture
def replicated_job(job_set):
    (job,) = job_set["spec"]["replicatedJobs"]
    return job


@pytest.fixture
def container(replicated_job):
    (train,) = replicated_job["template"]["spec"]["template"]["spec"]["containers"]
    return train


def test_job_set_has_one_indexed_job_of_all_workers(job_set, replicated_job, container):
    job = replicated_job["template"]["spec"]
    assert job_set["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert job["completionMode"] == "Indexed"
    workers = {item["name"]: item["value"] for item in container["env"]}["WORKERS"]
    assert job["completions"] == job["parallelism"] == int(workers)
    assert container["resources"]["limits"]["nvidia.com/gpu"] > 0


def test_job_set_starts_again_after_any_failure_but_an_error(job_set, replicated_job, container):
    policy, job = job_set["spec"]["failurePolicy"], replicated_job["template"]["spec"]
    assert policy["maxRestarts"] > 0
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    (error,) = job["podFailurePolicy"]["rules"]
    assert error["action"] == "FailJob"
    assert error["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [1]}
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_workdir_is_on_the_persistent_volume(replicated_job, container):
    (claim,) = [item for item in yaml.safe_load_all(KUBERNETES.read_text()) if item["kind"] != "JobSet"]
    volumes = {item["name"]: item for item in replicated_job["template"]["spec"]["template"]["spec"]["volumes"]}
    mounts = {item["mountPath"]: volumes[item["name"]] for item in container["volumeMounts"]}
    (workdir,) = re.findall(r"--workdir=(/\w+)", container["command"][-1])
    assert mounts[workdir]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_pods_name_each_other_in_tf_config(job_set, replicated_job, container, tmp_path):
    """The host names are those of the JobSet reference: JOBSET-JOB-JOBINDEX-PODINDEX.SUBDOMAIN."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "$TF_CONFIG"\n')
    (tmp_path / "python").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {"PATH": path, "WORKERS": "3", "JOB_COMPLETION_INDEX": "2"}
    ended = subprocess.run(container["command"], env=environment, capture_output=True, text=True, check=True)
    prefix = f"{job_set['metadata']['name']}-{replicated_job['name']}-0"
    port = container["ports"][0]["containerPort"]
    workers = [f"{prefix}-{index}.{job_set['spec']['network']['subdomain']}:{port}" for index in range(3)]
    assert json.loads(ended.stdout) == {"cluster": {"worker": workers}, "task": {"type": "worker", "index": 2}}

"""Trains on Cloud TPU: creates a TPU VM, installs, trains, copies the results, and deletes the VM. Not tested on a TPU.

Command:  python launch/tpu_vm.py --name=digits --accelerator=v5e-8 --zone=us-west4-a --project=PROJECT --spot \
              --queued --config=configs/mnist_methods.py:pgd --workdir=gs://BUCKET/runs/mnist_pgd \
              --data_dir=gs://BUCKET/tfds [--dry_run] [-- --config.epochs=5]

Arguments after -- go to launch/train.py. --dry_run prints the commands and runs nothing. --do=train,fetch does only
these two steps, --do=delete only deletes the VM. The same command resumes after an interruption. If a spot VM was taken
away, it is deleted and created again, and the run resumes from its workdir.

gcloud must be installed and logged in. The service account of the VM must be allowed to use the bucket, and with
several hosts also to see TPUs (roles/tpu.viewer). See docs/scale.md. keras_robust/tools/tpu_vm.py and tpu_training.py
name the pages of Google's documentation.
"""

import pathlib
import tempfile

from absl import flags

from keras_robust.tools import tpu_job, tpu_training, tpu_vm
from keras_robust.training import command_line

NAME = flags.DEFINE_string("name", None, "Name of the TPU VM, and of the queued resource.")
ACCELERATOR = flags.DEFINE_string("accelerator", None, "v4, v5e, v5p or v6e, and a size: v5e-8.")
ZONE = flags.DEFINE_string("zone", None, "Zone of Google Cloud.")
PROJECT = flags.DEFINE_string("project", None, "Project of Google Cloud.")
SPOT = flags.DEFINE_bool("spot", False, "Use a spot VM, which is cheaper but may be taken away at any time.")
QUEUED = flags.DEFINE_bool("queued", False, "Request a queued resource, and wait until there is capacity.")
RUNTIME_VERSION = flags.DEFINE_string(
    "runtime_version", None, "Runtime version of the VM; by default that of its generation."
)
CREATE_FLAGS = flags.DEFINE_list("create_flags", [], "Further flags for gcloud's create: --network=A,--subnetwork=B.")
SSH_FLAGS = flags.DEFINE_list("ssh_flags", [], "Further flags for gcloud's ssh and scp: --internal-ip.")
CONFIG = flags.DEFINE_string("config", "", "Config file on this machine, and a variant after a colon.")
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run: gs://BUCKET/FOLDER. May be on the VM if it has one host and no --spot."
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared data sets, in a bucket or on the VM.")
OUTPUT = flags.DEFINE_string("output", "runs", "Folder on this machine to copy the workdir into.")
DO = flags.DEFINE_list("do", list(tpu_job.STEPS), "Steps to do. They are always done in this order.")
MAX_RESTARTS = flags.DEFINE_integer("max_restarts", 10, "Largest number of restarts after interruptions.")
POLL_SECONDS = flags.DEFINE_float("poll_seconds", 60, "Seconds between two requests for the state of the VM.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands and run nothing.")
flags.mark_flags_as_required(["name", "accelerator", "zone", "project"])


def main(arguments: list[str]) -> None:
    """Does the steps of the job."""
    vm = tpu_vm.TpuVm(
        name=NAME.value,
        accelerator=ACCELERATOR.value,
        zone=ZONE.value,
        project=PROJECT.value,
        spot=SPOT.value,
        queued=QUEUED.value,
        runtime_version=RUNTIME_VERSION.value,
        create_flags=tuple(CREATE_FLAGS.value),
        ssh_flags=tuple(SSH_FLAGS.value),
    )
    training = tpu_training.Training(CONFIG.value, WORKDIR.value, DATA_DIR.value, tuple(arguments[1:]))
    job = tpu_job.Job(
        vm,
        training,
        repository=str(pathlib.Path(__file__).parents[1]),
        archive=f"{tempfile.gettempdir()}/keras_robust-{vm.name}.tar.gz",
        output=OUTPUT.value,
        run=tpu_job.DryRun() if DRY_RUN.value else tpu_job.execute,
        max_restarts=MAX_RESTARTS.value,
        poll_seconds=POLL_SECONDS.value,
    )
    job.do(DO.value)


if __name__ == "__main__":
    command_line.run(main)

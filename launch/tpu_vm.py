"""Trains on Cloud TPU: creates a TPU VM, installs, trains, fetches the results, deletes it. Never run on a TPU yet.

Command:  python launch/tpu_vm.py --name=digits --accelerator=v5e-8 --zone=us-west4-a --project=PROJECT --spot \
              --queued --config=configs/mnist_methods.py:pgd --workdir=gs://BUCKET/runs/mnist_pgd \
              --data_dir=gs://BUCKET/tfds [--dry_run] [-- --config.epochs=5]

What comes after -- goes to launch/train.py. --dry_run prints the commands and runs nothing. --do=train,fetch does two
of the steps alone, --do=delete deletes. Started again, the same command goes on where it was interrupted. A spot VM
that was taken away is deleted and created again, and the run goes on from its workdir.

gcloud must be installed and logged in, and the service account of the VM be allowed to use the bucket; for several
hosts, also to see TPUs (roles/tpu.viewer). docs/scale.md says more, and keras_robust/tools/tpu_vm.py and
tpu_training.py name the pages of Google's documentation.
"""

import pathlib
import tempfile

from absl import flags

from keras_robust.tools import tpu_job, tpu_training, tpu_vm
from keras_robust.training import command_line

NAME = flags.DEFINE_string("name", None, "Of the TPU VM, and of the queued resource.")
ACCELERATOR = flags.DEFINE_string("accelerator", None, "v4, v5e, v5p or v6e and a size, such as v5e-8.")
ZONE = flags.DEFINE_string("zone", None, "Of Google Cloud.")
PROJECT = flags.DEFINE_string("project", None, "Of Google Cloud.")
SPOT = flags.DEFINE_bool("spot", False, "Cheaper, and may be taken away at any time.")
QUEUED = flags.DEFINE_bool("queued", False, "Ask for a queued resource, and wait until there is capacity.")
RUNTIME_VERSION = flags.DEFINE_string("runtime_version", None, "Of the VM, where not that of its generation.")
CREATE_FLAGS = flags.DEFINE_list("create_flags", [], "Further ones of gcloud's create: --network=A,--subnetwork=B.")
SSH_FLAGS = flags.DEFINE_list("ssh_flags", [], "Further ones of gcloud's ssh and scp: --internal-ip.")
CONFIG = flags.DEFINE_string("config", "", "Config file, and a variant after a colon.")
WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run: gs://BUCKET/FOLDER, or of a VM that stays.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of TFDS's data sets, in a bucket or of the VM.")
OUTPUT = flags.DEFINE_string("output", "runs", "Folder of this machine that the workdir is copied into.")
DO = flags.DEFINE_list("do", list(tpu_job.STEPS), "Steps, done in this order.")
MAX_RESTARTS = flags.DEFINE_integer("max_restarts", 10, "How often to try again after an interruption.")
POLL_SECONDS = flags.DEFINE_float("poll_seconds", 60, "Between looks at the state of the VM.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands and run nothing.")
flags.mark_flags_as_required(["name", "accelerator", "zone", "project"])


def main(arguments: list[str]) -> None:
    """Does the steps."""
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

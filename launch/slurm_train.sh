#!/bin/bash
# Trains on the GPUs of several nodes under Slurm, one task per node; arguments are those of launch/train.py.
#
#     sbatch --nodes=4 launch/slurm_train.sh --config=configs/mnist_methods.py:pgd --workdir=/shared/runs/mnist_pgd \
#         --data_dir=/shared/tfds
#
# Run it in the repository. Workdir and data are on a file system that all nodes see; config.batch_size is that of all GPUs
# together. What the defaults below do not fit is given to sbatch. PYTHON is the interpreter, MAX_RESTARTS how often to go on.
#
# Five minutes before the time limit Slurm sends SIGTERM to the tasks (sbatch --signal without "B:"), which write a checkpoint
# and end with exit code 75; then the job goes back into the queue with the same arguments. So does a job that Slurm preempts
# or whose node fails (--requeue). https://slurm.schedmd.com/sbatch.html

#SBATCH --job-name=keras_robust
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

set -u
# srun does not inherit --cpus-per-task. One task may still write the checkpoint when others have ended: wait for it.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait=300 \
    "${PYTHON:-python}" launch/train.py --strategy=multi_worker "$@"
exit_code=$?
if [[ $exit_code -eq 75 && ${SLURM_RESTART_COUNT:-0} -lt ${MAX_RESTARTS:-20} ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$exit_code"

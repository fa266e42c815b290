#!/bin/bash
# Trains on the GPUs of several nodes under Slurm, with one task per node. Arguments are those of launch/train.py.
#
#     sbatch --nodes=4 launch/slurm_train.sh --config=configs/mnist_methods.py:pgd --workdir=/shared/runs/mnist_pgd \
#         --data_dir=/shared/tfds
#
# Run it in the repository. Workdir and data must be on a file system that all nodes can read. config.batch_size is that of
# all GPUs together. Pass other values than the defaults below to sbatch. The environment variable PYTHON is the interpreter,
# MAX_RESTARTS the largest number of restarts.
#
# Five minutes before the time limit, Slurm sends SIGTERM to the tasks (sbatch --signal without "B:"). They write a checkpoint
# and end with exit code 75, and the job goes back into the queue with the same arguments. A job that Slurm preempts, or whose
# node fails, also goes back into the queue (--requeue). See https://slurm.schedmd.com/sbatch.html

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
# srun does not inherit --cpus-per-task. It must wait, because one task may still write the checkpoint when others have ended.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait=300 \
    "${PYTHON:-python}" launch/train.py --strategy=multi_worker "$@"
exit_code=$?
if [[ $exit_code -eq 75 && ${SLURM_RESTART_COUNT:-0} -lt ${MAX_RESTARTS:-20} ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$exit_code"

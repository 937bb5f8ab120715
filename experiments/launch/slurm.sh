#!/usr/bin/env bash
# sbatch --nodes=2 experiments/launch/slurm.sh configs/image_folder.py --workdir=/shared/runs/photos
#
# One process for each GPU (not --gpus-per-task: every process sees the node's GPUs and uses the one with its local index);
# they find each other through SLURM's variables. Two minutes before the time limit SLURM sends SIGTERM to the processes;
# they save together and exit with 75, and the job is requeued.
#SBATCH --job-name=jaxfer
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail

again=75    # jaxfer's exit code for: saved, or another process is lost; run me again
lost=134    # JAX's own, where the process that is lost is the first
enough=600  # seconds that are worth another start
hasty=0     # starts in a row that did not last as long: a crash that comes each time also looks like a lost process

while true; do
  begun=$SECONDS
  # A process that ends first must not take the others out of their save.
  srun --kill-on-bad-exit=0 --wait=300 "${JAXFER:-.venv/bin/jaxfer}" run "$@"
  code=$?
  [ "$code" -eq "$again" ] || [ "$code" -eq "$lost" ] || exit "$code"
  hasty=$((SECONDS - begun < enough ? hasty + 1 : 0))
  [ "$hasty" -lt 5 ] || { echo "$hasty starts in a row ended within $enough s each, the last with $code"; exit "$code"; }
  left=$((${SLURM_JOB_END_TIME:-0} - $(date +%s)))
  if [ "$left" -lt "$enough" ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
  fi
  echo "exit code $code; starting again with $left s left"
done

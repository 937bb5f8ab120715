#!/usr/bin/env bash
# ZONE=us-west4-a experiments/launch/tpu_vm.sh configs/image_folder.py --workdir=gs://BUCKET/photos
#
# Creates a TPU slice, installs the last commit on its workers, runs there until the exit code is not 75 (saved, run me
# again), and deletes the slice, also when interrupted. A preempted spot slice is created again. NAME, TYPE and VERSION
# choose another slice; SPOT= (empty) one that is not preempted.
set -euo pipefail

: "${ZONE:?set ZONE to where the slice shall be}"
NAME=${NAME:-jaxfer}
TYPE=${TYPE:-v5litepod-16}
VERSION=${VERSION:-v2-alpha-tpuv5-lite}
SPOT=${SPOT---spot}
again=75
lost=134   # JAX's own, where another worker is lost
enough=600 # seconds that a start should last
hasty=0    # starts in a row that did not: a crash that comes each time also looks like a lost worker

tpu() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE" --quiet; }
everywhere() { tpu ssh "$NAME" --worker=all --command="$1"; }
state() { tpu describe "$NAME" --format='value(state)' 2>/dev/null || echo ABSENT; }
delete() { tpu delete "$NAME" || echo "$NAME was not deleted: see that nothing is left of it in $ZONE" >&2; }

create() {
  [ "$(state)" = ABSENT ] || delete
  tpu create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" $SPOT
  git archive --format=tar.gz --output="$source" HEAD
  tpu scp "$source" "$NAME:jaxfer.tar.gz" --worker=all
  everywhere "mkdir -p jaxfer && tar -xzf jaxfer.tar.gz -C jaxfer && python3 -m pip install --quiet --user uv &&
    ~/.local/bin/uv venv --quiet --python 3.12 .venv &&
    ~/.local/bin/uv pip install --quiet --python .venv/bin/python -c jaxfer/constraints.txt './jaxfer[tpu]'"
}

source=$(mktemp --suffix=.tar.gz)
trap 'delete; rm -f "$source"' EXIT
arguments=$(printf ' %q' "$@")

while true; do
  [ "$(state)" = READY ] || create
  begun=$SECONDS
  # gcloud's own exit code is not the command's; worker 0 keeps that in a file. Without the file the slice is gone.
  everywhere "cd jaxfer && rm -f exit_code; ../.venv/bin/jaxfer run$arguments; echo \$? > exit_code" || true
  code=$(tpu ssh "$NAME" --worker=0 --command='cat jaxfer/exit_code' | grep -E '^[0-9]+$') || code=$again
  [ "$code" -eq "$again" ] || [ "$code" -eq "$lost" ] || break
  hasty=$((SECONDS - begun < enough ? hasty + 1 : 0))
  [ "$hasty" -lt 5 ] || { echo "$hasty starts in a row ended within $enough s each, the last with $code" >&2; break; }
done
exit "$code"

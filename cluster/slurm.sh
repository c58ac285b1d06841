#!/usr/bin/env bash
# Slurm: `sbatch cluster/slurm.sh --cfg coco data.train=... run.name=coco-w32`: one Ray cluster for one run.
# The first node is the head; every node gives all its CPUs and GPUs. Needs a folder that all nodes see, with icon_dist
# installed in $VENV (by default .venv beside this folder), and data and runs there or on s3://.
#SBATCH --job-name=icon-dist
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300
# Five minutes before the time is up, or at a preemption, this shell gets TERM; it passes it on to the driver alone,
# which saves and leaves with 75. Ray's own processes must still live then, so Slurm's TERM is not for the steps.
set -euo pipefail

if [[ $# -eq 0 ]]; then
    echo "usage: sbatch [options] cluster/slurm.sh --cfg NAME [a.b=c ...]" >&2
    exit 2
fi

repository=${SLURM_SUBMIT_DIR:-$PWD}
export PATH="${VENV:-$repository/.venv}/bin:$PATH"

# The job's own token: other users of these nodes cannot submit to this cluster.
umask 077
scratch=$repository/.slurm-$SLURM_JOB_ID
mkdir -p "$scratch"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$scratch/token RAY_USAGE_STATS_ENABLED=0
python -c 'import secrets; print(secrets.token_hex(32))' > "$scratch/token"
trap 'rm -rf "$scratch"' EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000)) # not that of another job on a shared network
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
export RAY_ADDRESS="$address:$port" ICON_DRIVER="$scratch/driver"

# shellcheck disable=SC2329  # by the trap
stop() {
    echo "asked to stop: the driver saves and leaves"
    if [[ -s $ICON_DRIVER ]]; then kill -TERM "$(cat "$ICON_DRIVER")"; fi
}
trap stop TERM

# Starts a Ray node with each task; the line after -- runs beside the head alone, and its exit code is the step's.
# shellcheck disable=SC2016  # $$ and $ICON_DRIVER are for the shell beside the head
srun --cpu-bind=none --kill-on-bad-exit=0 \
    ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    bash -c 'echo $$ > "$ICON_DRIVER"; exec python -m icon_dist.train "$@"' train "$@" &
step=$!
while code=0; do
    wait "$step" || code=$?
    kill -0 "$step" 2> /dev/null || break # else it was a signal that ended `wait`, not the step
done

if [[ $code -eq 75 ]]; then
    echo "stopped early and saved: back into the queue, where the same line resumes"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

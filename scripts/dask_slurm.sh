#!/usr/bin/env bash
# A Dask cluster inside one SLURM allocation, and one geoseg job on it. One worker process per GPU; each offers the
# resource GPU=1, so a GPU never gets two tiles at once. All nodes must see the same files.
#
#   sbatch scripts/dask_slurm.sh scene.tif MODEL OUT
#
#SBATCH --job-name=geoseg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
set -euo pipefail

if [[ $# -ne 3 ]]; then
    echo "usage: sbatch $0 SCENE MODEL OUT" >&2
    exit 2
fi
scene=$1 model=$2 out=$3

mkdir -p "$out"
scheduler="$out/scheduler-${SLURM_JOB_ID:?this script runs under sbatch}.json"
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-8} OMP_WAIT_POLICY=PASSIVE
trap 'kill $(jobs -p) 2>/dev/null || true; rm -f "$scheduler"' EXIT

dask scheduler --scheduler-file "$scheduler" --no-dashboard &
srun dask worker --scheduler-file "$scheduler" --nthreads 1 --memory-limit 0 --resources GPU=1 --no-dashboard &

for _ in $(seq 60); do
    [[ -s "$scheduler" ]] && break
    sleep 1
done

geoseg predict "$scene" --model "$model" --out "$out" --scheduler "$scheduler" --device cuda --gpu-resource

#!/usr/bin/env bash
# The table of the README: base-to-new on Shapes for every method and seed, then the means and deviations.
#
#   bash scripts/embedded_benchmark.sh
#
# METHODS, SEEDS and JOBS (runs at a time, one thread each) by environment. Finished runs are not run again.
set -euo pipefail
[[ -z ${DATA:-} ]] || DATA=$(realpath -m "$DATA")
[[ -z ${OUTPUT:-} ]] || OUTPUT=$(realpath -m "$OUTPUT")
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_requirements requirements.txt

METHODS=${METHODS:-zsclip zsclip2 coop cocoop vpt ivlp maple prometar prometar_coop prometar_vpt}
SEEDS=${SEEDS:-1 2 3} JOBS=${JOBS:-$(nproc)}
export DATA=${DATA:-$repository/data} OUTPUT=${OUTPUT:-$repository/output} OMP_NUM_THREADS=1

python -m embedded.generate --root "$DATA" shapes
run() { # METHOD SEED: train and test, quietly but for the result
    local phase
    for phase in train test; do
        bash "scripts/$1/base2new_$phase.sh" shapes "$2" 2>&1 | grep -E '^(\* accuracy|Results are|error)' | sed "s/^/$1 seed $2 $phase: /" || return 1
    done
}
export -f run
for seed in $SEEDS; do for method in $METHODS; do echo "$method $seed"; done; done |
    xargs -P "$JOBS" -L 1 bash -o pipefail -c 'run "$@"' run || failed=1

python -m experiments.base2new "$OUTPUT" --dataset shapes
if [[ -n ${failed:-} ]]; then
    echo "error: a run failed; its log is below $OUTPUT" >&2
    exit 1
fi

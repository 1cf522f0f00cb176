#!/usr/bin/env bash
# The tables of docs/results.md, from the generated data and the embedded model: all settings,
# methods and seeds.
#
#   bash scripts/embedded_benchmark.sh [--trainers METHOD ...] [--settings SETTING ...]
#       [--seeds SEED ...] [--workers N]
#
# `python -m experiments run --help` explains the flags. DATA (default: data) takes the generated
# images, OUTPUT (default: output) the results. Finished runs are not run again; after an
# interruption the same command continues.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
[[ -z ${DATA:-} ]] || DATA=$(realpath -m "$DATA")
[[ -z ${OUTPUT:-} ]] || OUTPUT=$(realpath -m "$OUTPUT")
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_requirements requirements.txt
export DATA=${DATA:-$repository/data} OUTPUT=${OUTPUT:-$repository/output}

python -m experiments run configs/experiments/embedded_*.yaml "$@" || failed=$?
python -m experiments report "$OUTPUT"
exit "${failed:-0}"

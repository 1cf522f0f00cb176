#!/usr/bin/env bash
# One run of any method in any setting; scripts/<method>/*.sh call it. See experiments/launch/single.py.
#
#   bash scripts/run.sh train_base METHOD DATASET SEED [CFG [KEY VALUE ...]]   base2new_train: 16 shots of the base classes
#   bash scripts/run.sh test_new   METHOD DATASET SEED [CFG [KEY VALUE ...]]   base2new_test: that model on the new ones
#   bash scripts/run.sh source     METHOD DATASET SEED [CFG [KEY VALUE ...]]   xd_train: 16 shots of all classes
#   bash scripts/run.sh target     METHOD DATASET SEED [CFG [KEY VALUE ...]]   xd_test: that model on another data set
#   bash scripts/run.sh all        METHOD DATASET SHOTS [SEED [CFG [KEY VALUE ...]]]   few_shot; seeds 1, 2, 3 by default
#
# DATA (default: data) holds the data sets, OUTPUT (default: output) takes the results, SHOTS (default: 16) is the number
# of images a class, SOURCE (default: imagenet, or shapes for generated data) what xd_test's model was trained on. Other
# relative paths are relative to the repository. A finished run is not run again. An interrupted one continues from its
# last checkpoint; there is one every TRAIN.CHECKPOINT_SECONDS (60) and after every TRAIN.CHECKPOINT_FREQ epochs.
set -euo pipefail
[[ -z ${DATA:-} ]] || export DATA=$(realpath -m "$DATA")
[[ -z ${OUTPUT:-} ]] || export OUTPUT=$(realpath -m "$OUTPUT")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# the environment that scripts/demo.sh made, unless another one is active
if [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -f .venv/bin/activate ]]; then source .venv/bin/activate; fi
if [[ ${1:-} == all && $# == 4 ]]; then
    for seed in 1 2 3; do python -m experiments one "$@" "$seed"; done
else
    exec python -m experiments one "$@"
fi

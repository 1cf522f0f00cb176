#!/usr/bin/env bash
# One run of any method in any setting; scripts/<method>/*.sh call it.
#
#   bash scripts/run.sh train_base METHOD DATASET SEED [CFG [KEY VALUE ...]]
#       base2new_train.sh: trains on 16 shots of the base classes
#   bash scripts/run.sh test_new METHOD DATASET SEED [CFG [KEY VALUE ...]]
#       base2new_test.sh: tests that model on the new classes
#   bash scripts/run.sh test_all METHOD DATASET SEED [CFG [KEY VALUE ...]]
#       base2new_test.sh: and on base and new classes together
#   bash scripts/run.sh source METHOD [DATASET] SEED [CFG [KEY VALUE ...]]
#       xd_train.sh: trains on 16 shots of all classes
#   bash scripts/run.sh target METHOD DATASET SEED [CFG [KEY VALUE ...]]
#       xd_test.sh: tests that model on another data set
#   bash scripts/run.sh all METHOD DATASET SHOTS [SEED [CFG [KEY VALUE ...]]]
#       few_shot.sh: trains and tests on all classes; seeds 1, 2, 3 by default
#
# METHOD is a folder in scripts/, DATASET a file in configs/datasets/ and CFG a file in
# configs/trainers/<trainer>/, both without .yaml (default of CFG: the setting's), KEY VALUE an
# override of the configuration. Environment variables:
#
#   DATA     folder of the data sets (default: data)
#   OUTPUT   folder of the results (default: output)
#   SHOTS    number of images per class (default: 16)
#   SOURCE   data set on which the model of xd_test was trained
#            (default: imagenet, or shapes for generated data)
#
# Other relative paths are relative to the repository. A finished run is not run again. An
# interrupted one continues from its last checkpoint; there is one every TRAIN.CHECKPOINT_SECONDS
# (60) and after every TRAIN.CHECKPOINT_FREQ epochs.
#
# Example:
#   bash scripts/prometar/base2new_train.sh shapes 1
#   bash scripts/prometar/base2new_test.sh shapes 1
set -euo pipefail
if [[ ${3:-} == -h || ${3:-} == --help ]]; then # asked of scripts/<method>/*.sh
    declare -A script=([train_base]="base2new_train.sh DATASET SEED" [test_new]="base2new_test.sh DATASET SEED" [test_all]="base2new_test.sh DATASET SEED"
        [source]="xd_train.sh [DATASET] SEED" [target]="xd_test.sh DATASET SEED" [all]="few_shot.sh DATASET SHOTS [SEED]")
    printf 'usage: bash scripts/%s/%s [CFG [KEY VALUE ...]]\n\n' "$2" "${script[$1]}"
fi
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
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

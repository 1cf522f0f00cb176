#!/usr/bin/env bash
# Base-to-new generalisation for any method; scripts/<method>/base2new_{train,test}.sh call it.
#
#   bash scripts/base2new.sh train|test METHOD DATASET SEED [CFG [KEY VALUE ...]]
#
# train: 16 shots of the base classes, then accuracy on the base classes.
# test:  accuracy of that model on the new classes.
# DATA (default: data) holds the data sets, OUTPUT (default: output) takes the results, SHOTS (default: 16). Other
# relative paths are relative to the repository. A finished run is not run again. An interrupted one goes on from its
# last checkpoint; there is one each TRAIN.CHECKPOINT_FREQ epochs (published configs: after the last epoch only).
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ -z ${DATA:-} ]] || DATA=$(realpath -m "$DATA")
[[ -z ${OUTPUT:-} ]] || OUTPUT=$(realpath -m "$OUTPUT")
cd "$scripts/.."
source scripts/methods.sh
use_project_environment

if (($# < 4)); then
    echo "usage: bash scripts/<method>/base2new_train.sh DATASET SEED [CFG [KEY VALUE ...]]" >&2
    exit 2
fi
MODE=$1 METHOD=$2 DATASET=$3 SEED=$4
method_defaults "$METHOD" "$DATASET"
CFG=${5:-$CFG}
shift $(($# < 5 ? 4 : 5))
if [[ ! -f configs/trainers/$CFG_DIR/$CFG.yaml ]]; then
    echo "error: no such config: configs/trainers/$CFG_DIR/$CFG.yaml (KEY VALUE pairs come after CFG)" >&2
    exit 2
fi

DATA=${DATA:-data} OUTPUT=${OUTPUT:-output} SHOTS=${SHOTS:-16}
COMMON_DIR=$DATASET/shots_$SHOTS/$TRAINER/$CFG/seed$SEED
TRAIN_DIR=$OUTPUT/base2new/train_base/$COMMON_DIR
if [[ $MODE == train ]]; then
    DIR=$TRAIN_DIR CLASSES=base ACTION=()
else
    DIR=$OUTPUT/base2new/test_new/$COMMON_DIR CLASSES=new ACTION=(--eval-only --model-dir "$TRAIN_DIR")
fi
KIND=$MODE
if [[ $METHOD == zsclip* ]]; then # nothing to train: both halves are evaluations
    ACTION=(--eval-only) KIND=test
fi

given="$*"
if [[ -f $DIR/options.txt && $(<"$DIR/options.txt") != "$given" ]]; then
    echo "error: $DIR was run with other options ($(<"$DIR/options.txt")): set OUTPUT to another folder" >&2
    exit 1
fi
if finished "$DIR" "$KIND"; then
    echo "Results are available in $DIR ($(accuracy "$DIR")). Skip this job"
    exit 0
fi
if [[ -d $DIR && $KIND == train ]]; then
    echo "$DIR holds an unfinished run: going on from its last checkpoint, if it has one"
fi
if [[ $MODE == test && $METHOD != zsclip* ]]; then
    finished "$TRAIN_DIR" train || {
        echo "error: $TRAIN_DIR holds no finished training: run scripts/$METHOD/base2new_train.sh $DATASET $SEED first" >&2
        exit 1
    }
fi
if is_embedded "$DATASET"; then
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # so small a model is faster on one thread
    python -m embedded.generate --root "$DATA" "$DATASET"
fi
mkdir -p "$DIR"
echo "$given" >"$DIR/options.txt"
python train.py \
    --root "$DATA" \
    --seed "$SEED" \
    --trainer "$TRAINER" \
    --dataset-config-file "configs/datasets/$DATASET.yaml" \
    --config-file "configs/trainers/$CFG_DIR/$CFG.yaml" \
    --output-dir "$DIR" \
    ${ACTION[@]+"${ACTION[@]}"} \
    DATASET.NUM_SHOTS "$SHOTS" \
    DATASET.SUBSAMPLE_CLASSES "$CLASSES" \
    "$@"

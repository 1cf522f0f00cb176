# Sourced by the scripts of the settings: which trainer and which config file a method name stands for.

# The environment that scripts/demo.sh made, unless another one is active.
use_project_environment() {
    if [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -f .venv/bin/activate ]]; then source .venv/bin/activate; fi
}

# Data sets that are generated, with the small model that is shipped.
is_embedded() {
    case $1 in
        shapes | shapes_sketch | shapes_night | shapes_cluttered | glyphs) return 0 ;;
        *) return 1 ;;
    esac
}

# method_defaults METHOD DATASET: sets TRAINER, CFG (default config) and CFG_DIR (folder of its config files).
method_defaults() {
    local backbone=vit_b16
    if is_embedded "$2"; then backbone=vit_shapes; fi
    case $1 in
        zsclip) TRAINER=ZeroshotCLIP CFG_DIR=CoOp CFG=$backbone ;;
        zsclip2) TRAINER=ZeroshotCLIP2 CFG_DIR=CoOp CFG=$backbone ;;
        coop) TRAINER=CoOp CFG_DIR=CoOp CFG=${backbone}_ep50_ctxv1 ;;
        cocoop) TRAINER=CoCoOp CFG_DIR=CoCoOp CFG=${backbone}_c4_ep10_batch1_ctxv1 ;;
        vpt) TRAINER=VPT CFG_DIR=VPT CFG=${backbone}_c2_ep5_batch4_4 ;;
        ivlp) TRAINER=IVLP CFG_DIR=IVLP CFG=${backbone}_c2_ep20_batch4_4+4ctx ;;
        maple) TRAINER=MaPLe CFG_DIR=MaPLe CFG=${backbone}_c2_ep5_batch4_2ctx ;;
        prometar) TRAINER=ProMetaR CFG_DIR=ProMetaR CFG=${backbone}_c2_ep10_batch4_4+4ctx ;;
        prometar_coop) TRAINER=ProMetaR CFG_DIR=ProMetaR CFG=${backbone}_c2_ep10_batch4_4ctx_coop ;;
        prometar_vpt) TRAINER=ProMetaR CFG_DIR=ProMetaR CFG=${backbone}_c2_ep10_batch4_4ctx_vpt ;;
        *) echo "error: unknown method $1" >&2; exit 2 ;;
    esac
}

# finished DIR train|test: whether the run in DIR came to its end. An existing folder proves nothing.
finished() {
    local log
    for log in "$1"/log.txt*; do
        [[ -f $log ]] && awk -v mode="$2" '
            /^Finish training/ { trained = 1 }
            /^\* accuracy/ && (mode == "test" || trained) { done = 1 }
            END { exit !done }' "$log" && return 0
    done
    return 1
}

# accuracy DIR: the last accuracy line of the run in DIR.
accuracy() { cat "$1"/log.txt* | grep '^\* accuracy' | tail -n 1; }

#!/usr/bin/env bash
# The main job from nothing: set up, train ProMetaR on the base classes of Shapes (seed 1), evaluate
# on base and new classes, zero-shot CLIP beside it, and print the table. Run again, it reuses what
# is there.
#
#   bash scripts/demo.sh
#
# DATA (default: data) takes the generated images, OUTPUT (default: output) the results. Without an
# active environment, .venv is made with PYTHON (default: python3).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
[[ -z ${DATA:-} ]] || DATA=$(realpath -m "$DATA")
[[ -z ${OUTPUT:-} ]] || OUTPUT=$(realpath -m "$OUTPUT")
started=$SECONDS
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_requirements requirements.txt
installed=$SECONDS

export DATA=${DATA:-$repository/data} OUTPUT=${OUTPUT:-$repository/output}
base_to_new() { # METHOD [CFG]
    local method=$1
    shift
    bash "scripts/$method/base2new_train.sh" shapes 1 "$@" && bash "scripts/$method/base2new_test.sh" shapes 1 "$@"
}
python -m shapes_world.generate --root "$DATA" shapes
zero_shot_output=$(mktemp)
base_to_new zsclip >"$zero_shot_output" 2>&1 & # beside ProMetaR, which uses one core
base_to_new prometar vit_shapes_c2_ep5_batch4_4+4ctx
wait $! || { cat "$zero_shot_output"; exit 1; }
cat "$zero_shot_output"
rm "$zero_shot_output"

echo
python -m experiments report "$OUTPUT" --datasets shapes --no-figures
echo
echo "Logs and checkpoints: $OUTPUT/base2new"
echo "Setting up took $((installed - started)) s, the rest $((SECONDS - installed)) s"

#!/usr/bin/env bash
# The main job from nothing: set up, train ProMetaR on the base classes of Shapes (seed 1), evaluate on base and new
# classes, zero-shot CLIP beside it, and print the table. Run again, it reuses what is there.
set -euo pipefail
[[ -z ${DATA:-} ]] || DATA=$(realpath -m "$DATA")
[[ -z ${OUTPUT:-} ]] || OUTPUT=$(realpath -m "$OUTPUT")
started=$SECONDS
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_requirements requirements.txt
installed=$SECONDS

export DATA=${DATA:-$repository/data} OUTPUT=${OUTPUT:-$repository/output}
for method in zsclip prometar; do
    bash "scripts/$method/base2new_train.sh" shapes 1
    bash "scripts/$method/base2new_test.sh" shapes 1
done

echo
python -m experiments.base2new "$OUTPUT" --dataset shapes
echo
echo "Logs and checkpoints: $OUTPUT/base2new"
echo "Setting up took $((installed - started)) s, the rest $((SECONDS - installed)) s"

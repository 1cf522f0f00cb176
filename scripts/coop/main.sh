#!/usr/bin/env bash
# CoOp's few-shot classification with CoOp's arguments; seeds 1, 2, 3.
#
#   bash scripts/coop/main.sh DATASET CFG CTP NCTX SHOTS CSC
#   bash scripts/coop/main.sh caltech101 vit_b16_ep50 end 16 1 False
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../help.sh"
if (($# != 6)); then
    echo "usage: bash scripts/coop/main.sh DATASET CFG CTP NCTX SHOTS CSC" >&2
    exit 2
fi
for seed in 1 2 3; do
    bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" all coop "$1" "$5" "$seed" "$2" \
        TRAINER.COOP.CLASS_TOKEN_POSITION "$3" TRAINER.COOP.N_CTX "$4" TRAINER.COOP.CSC "$6"
done

#!/usr/bin/env bash
# Zero-shot CLIP on all classes, with CoOp's arguments.
#
#   bash scripts/zsclip/zeroshot.sh DATASET [CFG]      e.g. caltech101 vit_b16
source "$(dirname "${BASH_SOURCE[0]}")/../help.sh"
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" all zsclip "${1:-}" 0 1 "${@:2}"

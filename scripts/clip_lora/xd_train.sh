#!/usr/bin/env bash
# bash scripts/clip_lora/xd_train.sh DATASET SEED [CFG [KEY VALUE ...]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" source clip_lora "$@"

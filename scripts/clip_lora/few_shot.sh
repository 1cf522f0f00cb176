#!/usr/bin/env bash
# bash scripts/clip_lora/few_shot.sh DATASET SHOTS [SEED [CFG [KEY VALUE ...]]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" all clip_lora "$@"

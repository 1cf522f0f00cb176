#!/usr/bin/env bash
# bash scripts/linear_probe/few_shot.sh DATASET SHOTS [SEED [CFG [KEY VALUE ...]]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" all linear_probe "$@"

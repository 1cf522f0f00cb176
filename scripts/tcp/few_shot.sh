#!/usr/bin/env bash
# bash scripts/tcp/few_shot.sh DATASET SHOTS [SEED [CFG [KEY VALUE ...]]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" all tcp "$@"

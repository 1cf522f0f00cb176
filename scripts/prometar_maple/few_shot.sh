#!/usr/bin/env bash
# bash scripts/prometar_maple/few_shot.sh DATASET SHOTS [SEED [CFG [KEY VALUE ...]]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" all prometar_maple "$@"

#!/usr/bin/env bash
# bash scripts/prometar_promptsrc/xd_train.sh DATASET SEED [CFG [KEY VALUE ...]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" source prometar_promptsrc "$@"

#!/usr/bin/env bash
# bash scripts/prometar_promptsrc/base2new_train.sh DATASET SEED [CFG [KEY VALUE ...]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" train_base prometar_promptsrc "$@"

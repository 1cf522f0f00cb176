#!/usr/bin/env bash
# bash scripts/linear_probe/base2new_train.sh DATASET SEED [CFG [KEY VALUE ...]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" train_base linear_probe "$@"

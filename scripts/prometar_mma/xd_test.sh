#!/usr/bin/env bash
# bash scripts/prometar_mma/xd_test.sh DATASET SEED [CFG [KEY VALUE ...]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" target prometar_mma "$@"

#!/usr/bin/env bash
# bash scripts/linear_probe/xd_test.sh DATASET SEED [CFG [KEY VALUE ...]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" target linear_probe "$@"

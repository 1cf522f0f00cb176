#!/usr/bin/env bash
# bash scripts/prometar/base2new_test.sh DATASET SEED [CFG [KEY VALUE ...]]
bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" test_new prometar "$@" || exit
[[ ${1:-} == -h || ${1:-} == --help ]] || exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" test_all prometar "$@"

#!/usr/bin/env bash
# bash scripts/coprompt/xd_train.sh DATASET SEED [CFG [KEY VALUE ...]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../run.sh" source coprompt "$@"

#!/usr/bin/env bash
# Sets up and runs the whole test suite: bash scripts/test.sh [pytest arguments]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_requirements requirements.txt requirements-test.txt
ruff check .
ruff format --check .
python -m pytest "$@"

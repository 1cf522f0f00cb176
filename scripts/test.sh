#!/usr/bin/env bash
# Sets up and runs the whole test suite.
#
#   bash scripts/test.sh [pytest arguments]      e.g. tests/deploy -x
#
# The whole suite also says which share of the lines it covers: not with COVERAGE=0.
# COVERAGE=1 says it of a part, too.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_requirements requirements.txt requirements-test.txt
ruff check .
ruff format --check .
[[ $# -gt 0 ]] || basedpyright # takes half a minute: with the whole suite only
program=(pytest)
if [[ ${COVERAGE:-$(($# == 0))} != 0 ]]; then
    coverage_file=$(mktemp)
    trap 'rm -f "$coverage_file"' EXIT
    packages=$(printf '%s\n' */__init__.py | grep -v ^tests/ | xargs dirname | paste -sd,)
    program=(slipcover --source "$packages" --json --out "$coverage_file" -m pytest)
fi
# one thread and one core for each of up to four workers; the tests of a file stay together, for they share fixtures
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m "${program[@]}" -n auto --maxprocesses 4 --dist loadfile "$@"
[[ -z ${coverage_file:-} ]] || python -c "
import json, sys
print('Coverage:', json.load(open(sys.argv[1]))['summary']['percent_covered_display'], '% of the lines, subprocesses not counted')
" "$coverage_file"

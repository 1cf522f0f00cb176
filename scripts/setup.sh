# Sourced by the other scripts: an environment that has the project's requirements.
# Uses the active virtual (or conda) environment, else makes .venv in the repository.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository" || exit 1

if [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]]; then
    if [[ ! -f .venv/bin/activate ]]; then
        echo "Creating the virtual environment $repository/.venv"
        "${PYTHON:-python3}" -m venv .venv || { echo "error: python3 -m venv failed: install Python's venv package" >&2; exit 1; }
    fi
    source .venv/bin/activate
fi

python -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "error: $(python --version) is too old: Python 3.11 or newer is needed (set PYTHON)" >&2; exit 1; }

# install_requirements FILE...: pip install, unless this environment was given exactly these files before.
install_requirements() {
    local stamp digest
    stamp="${VIRTUAL_ENV:-$CONDA_PREFIX}/.requirements-installed"
    digest=$(cat "$@" | python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
    if grep -qs "$digest" "$stamp"; then
        return
    fi
    echo "Installing the requirements (PyTorch is large: a few minutes)"
    local arguments=() file
    for file in "$@"; do arguments+=(-r "$file"); done
    python -m pip install --quiet --disable-pip-version-check "${arguments[@]}" ||
        { echo "error: pip could not install ${*}: see its message above" >&2; exit 1; }
    echo "$digest" >>"$stamp"
}

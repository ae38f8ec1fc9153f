# Sourced by the commands beside it, from the repository's root.
#
#   environment FILE    makes $VENV (default .venv) hold what the requirements FILE lists
#
# A stamp remembers the Python and the requirements that were installed; while it fits, nothing is
# done and no network is needed. PYTHON names the interpreter (default: the first of at least 3.11).

VENV=${VENV:-.venv}
_RIGHT='import sys; sys.exit(sys.version_info < (3, 11))'

_find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c "$_RIGHT" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "error: PYTHON: ${PYTHON:-python3} is not a Python of at least 3.11;" \
        "install one, or name one with PYTHON=/path/to/python" >&2
    return 2
}

environment() {
    _python=$(_find_python) || exit 2
    _version=$("$_python" -c 'import sys; print(sys.version.split()[0])')
    _stamp=$VENV/installed-$1
    _wanted="$_version $(cat requirements.txt "$1" | cksum)"
    if [ "$(cat "$_stamp" 2>/dev/null)" = "$_wanted" ]; then
        return
    fi
    if [ "$("$VENV/bin/python" -c 'import sys; print(sys.version.split()[0])' 2>/dev/null)" != "$_version" ]; then
        echo "making $VENV with Python $_version" >&2
        if ! "$_python" -m venv --clear "$VENV"; then
            echo "error: $VENV: Python $_version cannot make a virtual environment;" \
                "on Debian and Ubuntu install python3-venv" >&2
            exit 2
        fi
    fi
    echo "installing $1 into $VENV" >&2
    if ! "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r "$1"; then
        echo "error: $1: could not be installed; see above, then run this again" >&2
        exit 2
    fi
    echo "$_wanted" >"$_stamp"
}

#!/usr/bin/env bash
# N processes on this machine that are one run, to try what a cluster does.
#
#   launch/local.sh N --config=FILE --workdir=DIR [--config.a.b=value ...]
#
# DEVICES is the number of CPU devices of each process (default 1); PLATFORM is cpu (default), gpu or
# tpu. Ends with the first status that is not 0; SIGTERM and Ctrl-C reach every process.
set -uo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh

count=${1:-}
if ! [[ $count =~ ^[1-9][0-9]*$ ]]; then
    echo "error: launch/local.sh: '$count' is no number of processes; give it first" >&2
    exit 2
fi
shift
platform "${PLATFORM:-cpu}" || exit 2
if [ "${PLATFORM:-cpu}" = cpu ]; then
    export XLA_FLAGS="--xla_force_host_platform_device_count=${DEVICES:-1} ${XLA_FLAGS:-}"
fi
python=${PYTHON:-.venv/bin/python}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count

processes=()
for ((i = 0; i < count; i++)); do
    JAX_PROCESS_ID=$i "$python" -m facejax.train "$@" &
    processes+=($!)
done
trap 'kill -TERM "${processes[@]}" 2>/dev/null' TERM
trap 'kill -INT "${processes[@]}" 2>/dev/null' INT
status=0
for process in "${processes[@]}"; do
    wait "$process"
    own=$?
    # A trapped signal ends `wait` early; the process is still there.
    while kill -0 "$process" 2>/dev/null; do
        wait "$process"
        own=$?
    done
    [ "$status" -ne 0 ] || status=$own
done
exit "$status"

#!/usr/bin/env bash
# A run on all workers of a Cloud TPU VM slice, started from your own machine.
#
#   launch/tpu_pod.sh NAME ZONE --config=FILE --workdir=gs://BUCKET/DIR [--config.a.b=value ...]
#
# NAME is the TPU VM or queued resource, with facejax checked out in ~/facejax and installed in
# ~/facejax/.venv on every worker. JAX reads the topology from the TPU's metadata. The workdir must
# be storage that all workers share (a mounted bucket or a file share).
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "error: launch/tpu_pod.sh: NAME, ZONE and the options of facejax.train are wanted" >&2
    exit 2
fi
name=$1 zone=$2
shift 2
options=$(printf ' %q' "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
    cd ~/facejax && . launch/environment.sh && platform tpu &&
    exec .venv/bin/python -m facejax.train$options"

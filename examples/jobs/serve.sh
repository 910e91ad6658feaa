#!/bin/bash
# serve.sh REPOSITORY ENDPOINT_FILE: what a batch job runs; see serve.sub.
#
# The batch system's CUDA_VISIBLE_DEVICES holds: the server uses the GPUs of
# this job and no others.
set -eu
repository=$1 endpoint=$2

# A file or a folder; without HERMES_IMAGE the local runtime serves.
image=${HERMES_IMAGE:-}

# `exec` makes the server's owner the process that the batch system signals.
exec hermes-serve "$repository" ${image:+--image "$image"} \
    --name "${endpoint%.json}" --free-ports \
    --host 0.0.0.0 --advertise "$(hostname -f)" \
    --endpoint-file "$endpoint" --log-file "${endpoint%.json}.log"

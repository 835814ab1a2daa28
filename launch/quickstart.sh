#!/usr/bin/env bash
# Trains SimCLR on real handwritten digits and evaluates it, from nothing: bash launch/quickstart.sh [WORKDIR]
# Makes the environment on the first call. A second call resumes an interrupted run, or reprints the result of a finished one.
set -euo pipefail
case "${1:-}" in
  -h | --help)
    printf '%s\n' 'usage: bash launch/quickstart.sh [WORKDIR]   (default: runs/quickstart in the project)' \
      'environment: SSLAX_JAX=cpu|cuda13|tpu, SSLAX_VENV=DIR, PYTHON=python3.12'
    exit 0
    ;;
  -*)
    printf 'error: unknown option %s; see --help\n' "$1" >&2
    exit 2
    ;;
esac
# shellcheck source=launch/env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
workdir="${1:-$SSLAX_ROOT/runs/quickstart}"
started=$SECONDS
printf '\n1/2 training SimCLR on 1,297 handwritten digits (labels unused): %s\n' "$workdir"
"$PY" -m sslax.train --config="$SSLAX_ROOT/configs/simclr.py:digits" --workdir="$workdir"
printf '\n2/2 evaluating it on 500 other digits\n'
"$PY" -m sslax.evaluate --workdir="$workdir" --probes=fewshot,knn,linear,collapse
printf '\n%d s after the installation. Next: your own images, README.md.\n' "$((SECONDS - started))"

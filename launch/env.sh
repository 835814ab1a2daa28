#!/usr/bin/env bash
# Makes the environment that everything here runs in: .venv beside this project, from requirements.txt. Sourced by quickstart.sh and
# tests/run.sh; afterwards $SSLAX_ROOT is the project and $PY its Python.
#
#   SSLAX_JAX=cpu|cuda13|tpu   the build of jax; default: what the machine has
#   SSLAX_VENV=DIR             default: .venv in the project
#   PYTHON=python3.12          default: the first of python3, python3.13, 3.12, 3.11 that is 3.11 or newer
set -euo pipefail
export LC_ALL=C.UTF-8 PYTHONUTF8=1 # any locale will do for the user, this one for us

SSLAX_ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
SSLAX_VENV="${SSLAX_VENV:-$SSLAX_ROOT/.venv}"
PY="$SSLAX_VENV/bin/python"

sslax_fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

sslax_find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  sslax_fail 'no Python 3.11 or newer with venv found; install one, or name it: PYTHON=/path/to/python3.12'
}

sslax_detect_jax() {
  if [ -n "${SSLAX_JAX:-}" ]; then
    printf '%s' "$SSLAX_JAX"
  elif command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then
    printf cuda13
  elif compgen -G '/dev/accel*' >/dev/null || [ -n "${TPU_NAME:-}" ]; then
    printf tpu
  elif compgen -G '/dev/vfio/[0-9]*' >/dev/null && grep -qs 0x1ae0 /sys/bus/pci/devices/*/vendor; then
    printf tpu # v5e and v6e: Google's PCI devices, handed through
  else
    printf cpu
  fi
}

sslax_make_env() {
  local jax extra python stamp started new
  jax="$(sslax_detect_jax)"
  case "$jax" in
    cpu) extra='jax' ;;
    cuda12 | cuda13 | tpu) extra="jax[$jax]" ;;
    *) sslax_fail "SSLAX_JAX=$jax is none of cpu, cuda12, cuda13, tpu" ;;
  esac
  # The stamp is written last: a half-installed environment has none, and is made again.
  stamp="$jax $(cksum <"$SSLAX_ROOT/requirements.txt")"
  if [ -f "$SSLAX_VENV/.sslax" ] && [ "$(cat "$SSLAX_VENV/.sslax")" = "$stamp" ]; then
    return
  fi
  if [ -n "$(ls -A "$SSLAX_VENV" 2>/dev/null)" ] && [ ! -e "$SSLAX_VENV/.sslax" ] && [ ! -e "$SSLAX_VENV/.sslax-made" ]; then
    sslax_fail "$SSLAX_VENV is not empty, and nothing that sslax made: name another folder with SSLAX_VENV, or remove this one"
  fi
  python="$(sslax_find_python)"
  started=$SECONDS
  printf 'making %s with %s and the %s build of jax (once, some minutes)\n' "$SSLAX_VENV" "$python" "$jax"
  new="$SSLAX_VENV"
  rm -f "$new/.sslax"
  "$python" -m venv --clear "$new" || sslax_fail "cannot make a virtual environment in $new"
  : >"$new/.sslax-made"
  "$PY" -m pip install --quiet --disable-pip-version-check "$extra" -r "$SSLAX_ROOT/requirements.txt" ||
    sslax_fail 'pip could not install requirements.txt; its message is above. Run this again once it is mended'
  # A path file instead of an editable install: nothing to build, and it works in a path with a space.
  printf '%s\n' "$SSLAX_ROOT" >"$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sslax.pth"
  printf '%s' "$stamp" >"$SSLAX_VENV/.sslax"
  printf 'environment ready after %d s\n' "$((SECONDS - started))"
}

sslax_make_env

#!/usr/bin/env bash
# All quick tests: bash tests/run.sh [pytest arguments]. Makes the environment on the first call.
set -euo pipefail
# shellcheck source=launch/env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/env.sh"
cd -- "$SSLAX_ROOT"
stamp="$(cksum <tests/requirements.txt)" # written last, and gone with the environment
if [ "$(cat "$SSLAX_VENV/.sslax-tests" 2>/dev/null)" != "$stamp" ]; then
  "$PY" -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt ||
    sslax_fail 'pip could not install tests/requirements.txt; its message is above. Run this again once it is mended'
  printf '%s' "$stamp" >"$SSLAX_VENV/.sslax-tests"
fi
if [ $# -eq 0 ]; then
  set -- -m 'not slow and not drill' -n 3 --dist loadscope --no-loadscope-reorder
fi
printf 'tests: pytest %s\n' "$*"
exec "$PY" -m pytest "$@"

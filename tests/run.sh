#!/usr/bin/env bash
# All quick tests: bash tests/run.sh [pytest arguments]. Makes the environment on the first call.
set -euo pipefail
# shellcheck source=launch/env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/env.sh"
cd -- "$SSLAX_ROOT"
if [ $# -eq 0 ]; then
  set -- -m 'not slow' -n 3 --dist loadscope --no-loadscope-reorder
fi
printf 'tests: pytest %s\n' "$*"
exec "$PY" -m pytest "$@"

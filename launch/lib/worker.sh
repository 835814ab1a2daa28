#!/usr/bin/env bash
# What launch/tpu runs on each host of a pod. All it keeps is in ~/sslax: worker (the host's name in the pod), code/HASH, venv/HASH, current
# (the code set up last), python (its environment), secrets.env, runs/RUN_ID/{attempt,supervisor,pid,code,log},
# last (the name of the run started last), buckets/BUCKET (by gcsfuse), busy.lock.
# Each verb answers with one line, '@sslax WORKER CODE TEXT': a host that did not answer did not do it.
set -euo pipefail
export LC_ALL=C.UTF-8
HERE="$HOME/sslax"
WORKER="$(cat "$HERE/worker")"
LOCKFILE="${SSLAX_TPU_LOCKFILE:-/tmp/libtpu_lockfile}"

answer() { # answer CODE TEXT: the last thing that a verb says
  printf '@sslax %s %s\n' "$WORKER" "$*"
  exit 0
}

# identity PID: pid and its start time, so that a pid that was given out again is not taken for ours. Fails when there is no such process.
identity() {
  local stat
  local -a fields
  stat="$(cat "/proc/$1/stat" 2>/dev/null)" || return 1
  read -ra fields <<<"${stat##*) }" # from the third on: the second, the name, may hold spaces
  [ "${fields[0]}" != Z ] || return 1
  printf '%s %s' "$1" "${fields[19]}"
}

alive() { # alive FILE: the process that FILE names still runs
  local kept
  kept="$(cat "$1" 2>/dev/null)" && [ -n "$kept" ] && [ "$(identity "${kept%% *}" || true)" = "$kept" ]
}

newest_run() { # the folder of the run that was started last
  cat "$HERE/last" 2>/dev/null || true
}

versions() { # the versions that must be the same on every host, and after a ';' what does not fit
  "$1/bin/python" - <<'PY'
import platform
from importlib import metadata

have = {'python': platform.python_version()}
for name in ('jax', 'jaxlib', 'libtpu', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy'):
  try:
    have[name] = metadata.version(name)
  except metadata.PackageNotFoundError:
    pass
wrong = ''
if {'jax', 'libtpu'} <= set(have):
  pins = [need.split(';')[0].strip() for need in metadata.requires('jax') if need.startswith('libtpu==')]
  if pins and not f'libtpu=={have["libtpu"]}.'.startswith(pins[0].rstrip('*')):
    wrong = f'; this jax wants {pins[0]}'
print(', '.join(f'{name} {version}' for name, version in have.items()) + wrong)
PY
}

uv() { # from wheels: the TPU VM's own Python may be old, and apt may be locked by its updates
  [ -x "$HERE/uv/bin/uv" ] || python3 -m pip install --quiet --disable-pip-version-check --target "$HERE/uv" uv >&2
  "$HERE/uv/bin/uv" --quiet "$@" >&2
}

verb_lock() { # lock CODE EXTRA PYTHON: the versions of everything, resolved once for all hosts
  local text
  text="$(mktemp)"
  { cat "$HERE/code/$1/requirements.txt" && printf '%s\n' "$2"; } >"$text.in"
  uv pip compile --python-version="$3" --no-header --no-annotate --output-file="$text" "$text.in" || answer 1 'uv could not resolve requirements.txt'
  sed 's/^/@lock /' "$text"
  rm -f "$text" "$text.in"
  answer 0 resolved
}

verb_setup() { # setup CODE ENVIRONMENT PYTHON: PYTHON is a version, or the folder of an environment that is there already
  local code="$1" hash="$2" python="$3" venv new
  venv="$HERE/venv/$hash"
  new="$venv.new.$$"
  mkdir -p "$HERE/venv" "$HERE/runs"
  if [[ "$python" == /* ]]; then
    [ -x "$python/bin/python" ] || answer 2 "no environment in $python: there is no bin/python"
    ln -sfnT "$python" "$venv"
  elif [ ! -f "$venv/.sslax" ]; then # without the stamp it is half built
    rm -rf "$venv" "$venv".new.*
    # --relocatable: it is built aside and gets its name when it is whole
    uv venv --relocatable --python="$python" "$new" || answer 1 "uv could not make an environment of Python $python"
    uv pip install --python="$new/bin/python" --requirement="$HERE/lock-$hash.txt" || answer 1 'uv could not install the lock file'
    touch "$new/.sslax"
    mv -T "$new" "$venv"
  fi
  ln -sfnT "$venv" "$HERE/python"
  ln -sfnT "$HERE/code/$code" "$HERE/current"
  answer 0 "$(versions "$venv")"
}

verb_status() { # none | running RUN ATTEMPT joined|starting | ended RUN ATTEMPT CODE
  local run attempt
  run="$(newest_run)"
  [ -n "$run" ] || answer 0 none
  attempt="$(cat "$HERE/runs/$run/attempt")"
  if [ -f "$HERE/runs/$run/code" ]; then
    answer 0 "ended $run $attempt $(cat "$HERE/runs/$run/code")"
  elif alive "$HERE/runs/$run/supervisor" || alive "$HERE/runs/$run/pid"; then
    grep -qs ' process(es)' "$HERE/runs/$run/log" && answer 0 "running $run $attempt joined"
    answer 0 "running $run $attempt starting"
  fi
  answer 0 "ended $run $attempt 137" # neither alive nor a code: the host went down, or somebody killed both
}

mount_bucket() { # mount_bucket BUCKET: the folder in which gcsfuse shows it
  local folder="$HERE/buckets/$1"
  mkdir -p "$folder"
  if ! mountpoint -q "$folder"; then
    command -v gcsfuse >/dev/null ||
      answer 2 'gcsfuse is not installed, which shows a bucket as a folder: docs/launching.md, or give a --workdir that all hosts share'
    gcsfuse --implicit-dirs "$1" "$folder" >&2 || answer 1 "gcsfuse could not mount gs://$1: may the service account of the TPU read and write it?"
  fi
}

verb_run() { # run RUN ATTEMPT PRESETS ARGUMENTS...: starts the training in a session of its own, which ssh's end does not touch
  local run="$1" attempt="$2" presets="$3" folder="$HERE/runs/$1" holder place
  local -a arguments=()
  shift 3
  mkdir -p "$folder"
  [ -x "$HERE/python/bin/python" ] || answer 2 'not set up: launch/tpu setup'
  if ! flock -n "$HERE/busy.lock" true; then
    holder="$(newest_run)"
    # The same attempt again is ssh that lost the answer the first time.
    [ "$holder $(cat "$HERE/runs/$holder/attempt")" = "$run $attempt" ] && answer 0 started
    answer 2 "busy: $holder is running; launch/tpu kill stops it"
  fi
  for word; do
    if [[ "$word" == --workdir=gs://* ]]; then
      place="${word#--workdir=gs://}"
      mount_bucket "${place%%/*}"
      word="--workdir=$HERE/buckets/$place"
    fi
    arguments+=("$word")
  done
  rm -f "$folder/code" "$folder/pid" "$folder/supervisor"
  printf '%s' "$attempt" >"$folder/attempt"
  [ ! -f "$folder/log" ] || mv -f "$folder/log" "$folder/log.before"
  printf '%s' "$run" >"$HERE/last"
  setsid bash "$HERE/current/launch/lib/worker.sh" supervise "$run" "$presets" "${arguments[@]}" </dev/null >>"$folder/log" 2>&1 &
  # Not answered before it holds the lock: a status that comes next must not find nothing.
  for _ in $(seq 100); do
    if alive "$folder/supervisor" || [ -f "$folder/code" ]; then answer 0 started; fi
    sleep 0.1
  done
  answer 170 'the supervisor did not start'
}

verb_supervise() { # the parent of the training: writes its pid, waits, writes its exit code
  local presets="$2" folder="$HERE/runs/$1" preset code=0
  shift 2
  exec 9>"$HERE/busy.lock"
  flock -n 9 || exit 1
  identity "$$" >"$folder/supervisor"
  cd -- "$HERE/current"
  set -a
  JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HERE/cache}"
  TPU_STDERR_LOG_LEVEL="${TPU_STDERR_LOG_LEVEL:-0}"
  TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS="${TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS:-60}"
  TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES="${TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES:-256}"
  for preset in ${presets//,/ }; do
    # shellcheck source=/dev/null
    [ "$preset" = none ] || source "launch/env/$preset.env"
  done
  # shellcheck source=/dev/null
  [ ! -f "$HERE/secrets.env" ] || source "$HERE/secrets.env"
  set +a
  "$HERE/python/bin/python" -u -m sslax.train "$@" &
  identity $! >"$folder/pid" || true # it may have ended already
  wait $! || code=$?
  printf '%s' "$code" >"$folder/code.new"
  mv -f "$folder/code.new" "$folder/code"
  kill -KILL -- "-$$" # the last act: data workers that outlived their parent, which would keep the host busy, and this shell
}

holders() { # the processes that have a TPU open, other people's too where sudo asks nothing
  local find=(find)
  if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then find=(sudo -n find); fi
  "${find[@]}" /proc/[0-9]*/fd \( -lname "${SSLAX_TPU_DEVICE:-/dev/accel*}" -o -lname '/dev/vfio/[0-9]*' \) 2>/dev/null | cut -d/ -f3 | sort -un || true
}

verb_kill() { # kill GRACE: TERM, GRACE seconds for the save, then KILL; by pid only
  local folder kept said='nothing was running' holding
  folder="$HERE/runs/$(newest_run)"
  if alive "$folder/pid" || alive "$folder/supervisor"; then
    said='ended in order'
    if alive "$folder/pid"; then kill -TERM "$(cut -d' ' -f1 "$folder/pid")" || true; fi
    for ((waited = 0; waited < $1 * 5; waited++)); do
      alive "$folder/pid" || break
      sleep 0.2
    done
    if alive "$folder/pid"; then
      said="did not end within $1 s, killed"
      kept="$(cut -d' ' -f1 "$folder/supervisor")"
      kill -KILL "$(cut -d' ' -f1 "$folder/pid")" || true # first: the supervisor writes down how it ended
      sleep 0.5
      kill -KILL -- "-$kept" 2>/dev/null || true # what else is in its session: data workers
    fi
    for _ in $(seq 50); do
      [ -f "$folder/code" ] && break
      sleep 0.1
    done
    [ ! -f "$folder/code" ] || said="$said, code $(cat "$folder/code")"
  fi
  if [ -e "$LOCKFILE" ]; then
    holding="$(holders | tr '\n' ' ')"
    if [ -n "$holding" ]; then
      said="$said; $LOCKFILE stays: the TPU is held by process $holding"
    else
      rm -f "$LOCKFILE" 2>/dev/null || sudo -n rm -f "$LOCKFILE"
      said="$said; stale $LOCKFILE removed"
    fi
  fi
  answer 0 "$said"
}

verb_logs() { # logs LINES FOLLOW PATTERN: the end of the log, each line with the host's name before it
  local log follow=()
  log="$HERE/runs/$(newest_run)/log"
  [ "$2" = 0 ] || follow=(-F)
  if [ -f "$log" ]; then
    # A progress bar redraws its line with carriage returns.
    tail -q -n "$1" "${follow[@]}" "$log" 2>/dev/null | stdbuf -oL tr '\r' '\n' | { grep --line-buffered -e "$3" || true; } |
      stdbuf -oL sed "s/^/$WORKER /"
  fi
  answer 0 end
}

verb_doctor() { # doctor COORDINATOR: the time, facts, and after each ';' what is wrong
  local wrong='' free have code=0
  free=$(($(df --output=avail -k "$HOME" | tail -1) / 1048576))
  ((free >= 10)) || wrong="$wrong; only $free GiB of disk are free"
  have="$(versions "$HERE/python" 2>/dev/null)" || wrong="$wrong; no Python with jax in its environment"
  [[ "$have" == *libtpu* ]] || wrong="$wrong; no libtpu, without which jax is on the CPU"
  if [ -e "$LOCKFILE" ] && [ -z "$(holders)" ]; then wrong="$wrong; stale $LOCKFILE: launch/tpu kill removes it"; fi
  if getent ahosts "$1" >/dev/null; then
    # jax's port. Refused is as good as accepted: nobody listens yet. No answer: packets are dropped on the way.
    timeout 5 bash -c "exec 3<>/dev/tcp/$1/8482" 2>/dev/null || code=$?
    ((code != 124)) || wrong="$wrong; no answer from the coordinator $1, port 8482: a firewall between the hosts?"
  else
    wrong="$wrong; the coordinator $1 cannot be resolved"
  fi
  [[ "$(hostname -I 2>/dev/null || true)" != 127.* ]] || wrong="$wrong; the host knows itself by a loopback address only"
  if [ -n "${TPU_LIBRARY_PATH:-}" ] || ls "$HERE"/python/lib/python3*/site-packages/tensorflow_tpu* >/dev/null 2>&1; then
    wrong="$wrong; a libtpu beside the one that jax pins (TPU_LIBRARY_PATH or tensorflow-tpu)"
  fi
  answer 0 "$(date +%s) $free GiB free, $have$wrong"
}

verb="$1"
shift
"verb_$verb" "$@"

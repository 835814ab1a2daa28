#!/usr/bin/env bash
# What the launchers share: errors that say what to do, flags with suggestions, commands that can be shown instead of run. Sourced.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

fail() { # a mistake of the user: exit 2, as sslax does
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# distance A B: how many letters must be typed otherwise (Levenshtein).
distance() {
  local a="$1" b="$2" i j cost best
  local -a row next
  for ((j = 0; j <= ${#b}; j++)); do row[j]=$j; done
  for ((i = 1; i <= ${#a}; i++)); do
    next=("$i")
    for ((j = 1; j <= ${#b}; j++)); do
      [ "${a:i-1:1}" = "${b:j-1:1}" ] && cost=0 || cost=1
      best=$((row[j - 1] + cost))
      ((row[j] + 1 < best)) && best=$((row[j] + 1))
      ((next[j - 1] + 1 < best)) && best=$((next[j - 1] + 1))
      next[j]=$best
    done
    row=("${next[@]}")
  done
  printf '%s' "${row[${#b}]}"
}

# suggest WORD KNOWN...: " Did you mean X?" for the nearest, or " Known: ..." where none is near.
suggest() {
  local word="$1" known best='' least=99 d
  shift
  for known in "$@"; do
    d=$(distance "$word" "$known")
    if ((d < least)); then least=$d best=$known; fi
  done
  if ((least * 5 <= ${#word} * 2 + 2)); then
    printf ' Did you mean %s?' "$best"
  else
    printf ' Known: %s.' "$*"
  fi
}

# parse_flags "VALUES" "SWITCHES" ARGUMENTS...: fills FLAG[name] (a switch: 1), and REST with what stands after --.
declare -A FLAG=()
declare -a REST=()
parse_flags() {
  local values=" $1 " switches=" $2 " word name
  shift 2
  while (($#)); do
    word="$1"
    shift
    if [ "$word" = -- ]; then
      REST=("$@")
      return
    fi
    [[ "$word" == --* ]] || fail "stray argument '$word': arguments are flags (--name=value).$(near_flag "$word" "$values$switches")"
    name="${word#--}"
    name="${name%%=*}"
    name="${name//-/_}"
    if [[ "$switches" == *" $name "* ]]; then
      [[ "$word" != *=* ]] || fail "--$name takes no value"
      FLAG[$name]=1
    elif [[ "$values" == *" $name "* ]]; then
      if [[ "$word" == *=* ]]; then
        FLAG[$name]="${word#*=}"
      else
        if (($# == 0)) || [[ "$1" == --* ]]; then fail "--$name needs a value: --$name=..."; fi
        FLAG[$name]="$1"
        shift
      fi
      [ -n "${FLAG[$name]}" ] || fail "--$name is empty"
    else
      fail "unknown flag --$name.$(near_flag "$name" "$values$switches")"
    fi
  done
}

near_flag() {
  local -a known
  read -ra known <<<"$2"
  suggest "${1%%=*}" "${known[@]/#/--}" | sed "s/mean ----/mean --/"
}

# seconds 90s|30m|6h -> 90, 1800, 21600
seconds() {
  local number="${1%[smh]}"
  [[ "$number" =~ ^[0-9]+$ && "$1" == *[smh] ]] || fail "'$1' is no duration: 90s, 30m or 6h"
  case "$1" in
    *h) printf '%s' $((number * 3600)) ;;
    *m) printf '%s' $((number * 60)) ;;
    *s) printf '%s' "$number" ;;
  esac
}

# show COMMAND...: the line that a shell would need to run it.
show() {
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

# change LIMIT COMMAND...: runs a command that changes something, or prints exactly it under --dry_run.
change() {
  if [ -n "${FLAG[dry_run]:-}" ]; then
    shift
    show "$@"
  else
    ask "$@"
  fi
}

# ask LIMIT COMMAND...: runs a command, at most LIMIT seconds (0: no limit), and notes it in $COMMANDS. 124: it took too long.
# --foreground: Ctrl-C reaches it.
ask() {
  local limit="$1"
  shift
  [ -z "${COMMANDS:-}" ] || show "$@" >>"$COMMANDS"
  timeout --foreground --kill-after=10 "$limit" "$@" </dev/null
}

# worst CODE...: the exit code of a run of which these are the processes' codes. A crash is never hidden behind a peer that
# saved and asks for a restart: 2, then 3, then any other below 128, then 170, signals, 42, 0.
worst() {
  local code class best=0 rank=0
  for code in "$@"; do
    case "$code" in
      0) class=0 ;;
      42) class=1 ;;
      170) class=3 ;;
      3) class=5 ;;
      2) class=6 ;;
      *) if ((code >= 128)); then class=2; else class=4; fi ;;
    esac
    if ((class > rank)); then rank=$class best=$code; fi
  done
  printf '%s' "$best"
}

restartable() { (($1 == 42 || $1 >= 128)); }

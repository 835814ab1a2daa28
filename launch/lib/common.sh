#!/usr/bin/env bash
# What a launcher in bash needs: errors that say what to do, flags with suggestions. Sourced.
set -euo pipefail

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

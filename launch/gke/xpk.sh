#!/usr/bin/env bash
# Submits a run to a cluster of xpk's: sslax's restart rules, and otherwise xpk's own arguments.
#
#   launch/gke/xpk.sh --name=r1 --cluster=c1 --type=v5litepod-16 --image=IMAGE --workdir=/gcs/r1 [--slices=2] [--restarts=50] \
#       [--project=P --zone=Z] [--xpk='--storage=gcs --priority=high'] [--dry_run] -- --config=configs/simclr.py:imagenet
#
# --workdir is a folder of a storage that was attached to the cluster with `xpk storage attach`. xpk can restart on exit codes, or not
# at all; restarts after maintenance count like all others, hence 50. render.py's JobSets tell them apart.
set -euo pipefail
# shellcheck source=launch/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
fi
parse_flags 'name cluster type image workdir slices restarts project zone xpk' 'dry_run' "$@"
for name in name cluster type image workdir; do
  [ -n "${FLAG[$name]:-}" ] || fail "--$name is missing; see --help"
done
((${#REST[@]})) || fail 'what to train is missing: -- --config=configs/simclr.py:imagenet, as for sslax.train'
[[ "${FLAG[image]##*/}" == *[:@]* && "${FLAG[image]}" != *:latest ]] ||
  fail "--image=${FLAG[image]} names no version: a restart might run other code. Add a tag or a digest"
command -v xpk >/dev/null || fail 'xpk is not installed: pip install xpk, in an environment of its own'

read -r -a extra <<<"${FLAG[xpk]:-}"
# xpk runs the command in a shell that passes SIGTERM to its child: exec makes Python that child.
exec xpk workload create \
  --workload="${FLAG[name]}" \
  --cluster="${FLAG[cluster]}" \
  --tpu-type="${FLAG[type]}" \
  --num-slices="${FLAG[slices]:-1}" \
  --docker-image="${FLAG[image]}" \
  --restart-on-exit-codes=42 \
  --max-restarts="${FLAG[restarts]:-50}" \
  ${FLAG[project]:+--project="${FLAG[project]}"} \
  ${FLAG[zone]:+--zone="${FLAG[zone]}"} \
  ${FLAG[dry_run]:+--dry-run --skip-validation} \
  --command="exec $(printf '%q ' python -m sslax.train "${REST[@]}" --workdir="${FLAG[workdir]}")" \
  "${extra[@]}"

"""`doctor`: what would go wrong, before it does. Each line is a verdict; the code is 2 where one of them is FAIL."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

from . import codes, gcloud
from .accelerators import accelerator_type
from .errors import Mistake, Stop
from .hosts import NEW, Answers, Fleet, verb
from .pod import ACTIVE, READY, Pod, look_at, look_at_nodes, need_ours, state_of
from .setup import PROJECT
from .snapshot import pack
from .training import check_region

CHECKED_GCLOUD = '528.0.0'
CLOCK_SECONDS = 30  # how far the clock of a host may be off

OK, WARN, FAIL = 'ok', 'warn', 'FAIL'


class Verdict(NamedTuple):
  kind: str
  what: str


def doctor(pod: Pod) -> int:
  """The command."""
  if pod.options.type:
    pod = dataclasses.replace(pod, options=dataclasses.replace(pod.options, type=accelerator_type(pod.options.type)))
  code = codes.DONE
  for verdict in _verdicts(pod):
    print(f'{verdict.kind:<4}  {verdict.what}')
    code = codes.USER_ERROR if verdict.kind == FAIL else code
  return code


def _verdicts(pod: Pod) -> Iterator[Verdict]:
  options = pod.options
  version = _said(pod, ['gcloud', 'version', '--format=value("Google Cloud SDK")'])
  yield Verdict(OK, f'gcloud {version or "of unknown version"}; this script was checked against {CHECKED_GCLOUD}')
  account = _said(pod, ['gcloud', 'config', 'get-value', 'account'])
  yield Verdict(OK, f'account {account}') if account else Verdict(FAIL, 'no account: gcloud auth login')
  project = options.project or _said(pod, ['gcloud', 'config', 'get-value', 'project'])
  yield Verdict(OK, f'project {project}') if project else Verdict(FAIL, 'no project: --project, or gcloud config set project')
  yield from _types(pod)
  if options.type:
    yield _quota(pod, project)
  if options.bucket:
    yield _bucket(pod)
  yield _code(pod)
  yield from _pod(pod)


def _said(pod: Pod, words: list[str]) -> str:
  return pod.commands.ask(words, pod.seconds.api).out.strip()


def _look(pod: Pod, words: list[str]) -> tuple[str, str]:
  """(answer, '') or ('', why there is none)."""
  try:
    return gcloud.look(pod.commands, words, pod.seconds.api), ''
  except gcloud.Absent:
    return '', 'not found'
  except (gcloud.NoAnswer, gcloud.Refused) as why:
    return '', str(why).splitlines()[-1]


def _types(pod: Pod) -> Iterator[Verdict]:
  zone, kind = pod.options.zone, pod.options.type
  answer, why = _look(pod, gcloud.list_types(pod.options))
  if why:
    enable = 'is it enabled? gcloud services enable tpu.googleapis.com'
    yield Verdict(FAIL, f'the TPU API does not answer for {zone} ({enable}): {why}')
    return
  there = answer.split()
  yield Verdict(OK, f'the TPU API answers; {zone} has {len(there)} types of TPU')
  if kind and kind not in there:
    yield Verdict(FAIL, f'{zone} has no {kind}')


def _quota(pod: Pod, project: str) -> Verdict:
  kind = pod.options.type.partition('-')[0]
  answer, why = _look(pod, gcloud.list_quotas(project))
  if why:
    enable = 'gcloud components install beta; gcloud services enable cloudquotas.googleapis.com'
    return Verdict(WARN, f'quota unknown ({enable}): {why}')
  found = quotas(answer, kind, pod.options.zone)
  if found:
    return Verdict(OK, f'quota for {kind}: {" ".join(found)}')
  return Verdict(FAIL, f'no quota for {kind} in {pod.options.zone}')


def quotas(answer: str, kind: str, zone: str) -> list[str]:
  """What a project may have of a kind in a zone, NAME=NUMBER each: TPUV5sLitepod..., TPUV5sPreemptibleLitepod... (spot), TPUV6E.

  Args:
    answer: 'QUOTA,VALUE,ZONE,ZONES' a line.
  """
  prefix = f'tpu{kind.replace("v5litepod", "v5s")}'.lower()
  here = re.compile(rf'(?<![\w-]){re.escape(zone)}(?![\w-])')
  rows = [row.split(',') for row in answer.splitlines() if row.lower().startswith(prefix) and here.search(row)]
  return [f'{name}={value}' for name, value, *_ in rows if value not in ('', '0')]


def _bucket(pod: Pod) -> Verdict:
  try:
    check_region(pod, pod.options.bucket)
  except (Mistake, Stop) as why:
    return Verdict(FAIL, str(why))
  return Verdict(OK, f'the bucket {pod.options.bucket} is near {pod.options.zone}')


def _code(pod: Pod) -> Verdict:
  try:
    with tempfile.TemporaryDirectory(prefix='tmp.') as folder:
      pack(PROJECT, pathlib.Path(folder))
  except Mistake as why:
    return Verdict(FAIL, str(why))
  return Verdict(OK, 'the code can be sent')


def _pod(pod: Pod) -> Iterator[Verdict]:
  resource = look_at(pod)
  yield Verdict(OK, f'the pod {pod.name} is {resource.state}')
  if resource.state != ACTIVE:
    return
  need_ours(pod, resource)
  nodes = look_at_nodes(pod)
  if state_of(nodes) != READY:
    yield Verdict(FAIL, f'a host is {state_of(nodes)}')
  # Process 0 is the coordinator, and the others find it by its address.
  answers = Fleet(pod, nodes).ask(verb('current', 'doctor', nodes[0].addresses[0]), pod.seconds.ssh)
  yield from judged(answers, time.time())
  code = pod.memory.text('setup').strip()
  yield Verdict(OK, f'set up with code {code}') if code else Verdict(WARN, 'not set up from this machine')


def judged(answers: Answers, now: float) -> Iterator[Verdict]:
  """Of each host: 'CLOCK N GiB free, VERSIONS; WHAT IS WRONG; ...'."""
  same = None
  for host, answer in answers.sorted():
    if host == NEW:
      yield Verdict(WARN, 'the hosts are not set up, and were asked no more: launch/tpu setup')
      continue
    clock, _, text = answer.text.partition(' ')
    off = int(clock) - int(now)
    wrong = f'; its clock is {off} s off' if abs(off) > CLOCK_SECONDS else ''
    versions = text.partition(', ')[2].partition(';')[0]
    same = same or versions
    if versions != same:
      wrong += '; other versions than on another host'
    yield Verdict(FAIL if ';' in text + wrong else OK, f'{host}: {text}{wrong}')
  for host, why in answers.missing.items():
    yield Verdict(FAIL, f'{host} ({why})')

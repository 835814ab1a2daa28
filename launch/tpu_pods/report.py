"""What a person looks at: status, logs, and a shell on a host."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Sequence

from . import codes, gcloud
from .errors import Mistake
from .hosts import Fleet, verb
from .pod import ACTIVE, READY, UNKNOWN, Pod, look_at, look_at_nodes, need_active, state_of
from .quoting import line
from .training import ENDED, look_at_run


def status(pod: Pod) -> int:
  """The command. Its code is that of a run that has ended."""
  resource = look_at(pod)
  print(f'{pod.name}: {resource.state} {resource.type}'.rstrip())
  if resource.state != ACTIVE:
    return codes.LOST if resource.state == UNKNOWN else codes.DONE
  nodes = look_at_nodes(pod)
  if state_of(nodes) != READY:
    print(f'a host is {state_of(nodes)}')
    return codes.LOST
  found = look_at_run(Fleet(pod, nodes))
  for host, answer in found.answers.sorted():
    print(f'  {host}: {answer.text}')
  if found.answers.missing:
    print(f'  no answer: {found.answers.silent}')
    return codes.LOST
  return found.code if found.state == ENDED else codes.DONE


def logs(pod: Pod) -> int:
  """The command: all hosts' lines, as they come."""
  fleet, options = Fleet(pod, need_active(pod)), pod.options
  command = verb('current', 'logs', options.lines, int(options.follow), options.grep)
  started = [pod.commands.start(fleet.ssh(node, number, command)) for node, number in _asked(fleet, options.worker)]
  readers = [threading.Thread(target=_copy, args=(process,), daemon=True) for process in started]
  for reader in readers:
    reader.start()
  try:
    for reader in readers:
      reader.join()
  finally:
    for process in started:
      process.terminate()
  return codes.DONE


def _asked(fleet: Fleet, worker: str) -> list[tuple[str, object]]:
  """(node, host's number or 'all'), as few as there must be."""
  if worker in ('', 'all'):
    return [(node.name, 'all') for node in fleet.nodes]
  found = [host for host in fleet.hosts() if worker == host.name or worker == str(host.number)]
  if not found:
    raise Mistake(f'--worker={worker} is no host of {fleet.pod.name}: {", ".join(host.name for host in fleet.hosts())}')
  return [(host.node, host.number) for host in found]


def _copy(process: subprocess.Popen) -> None:
  for text in process.stdout or ():
    if not text.startswith(b'@sslax'):
      print(text.decode('utf-8', 'replace'), end='', flush=True)
  process.wait()


def ssh(pod: Pod, rest: Sequence[str]) -> int:
  """The command: this process becomes ssh."""
  fleet = Fleet(pod, need_active(pod))
  # One word is a line for the host's shell; several are words, which it gets as they are.
  command = rest[0] if len(rest) == 1 else line(rest)
  node, number = _place(fleet, pod.options.worker or '0')
  words = gcloud.ssh(pod.options, node, number, command)
  if pod.dry_run:
    print(line(words))
    return codes.DONE
  pod.commands.note(words)
  os.execvp(words[0], words)  # the terminal is ssh's own, Ctrl-C too


def _place(fleet: Fleet, worker: str) -> tuple[str, str]:
  """Where ssh goes: the first node, unless a host of another one is named."""
  match = re.fullmatch(r's(\d+)w(\d+)', worker)
  if match:
    return f'{fleet.pod.name}-{match[1]}', match[2]
  return fleet.nodes[0].name, worker[1:] if worker.startswith('w') else worker

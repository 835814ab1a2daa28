"""A command on all hosts of a pod: who answered what, and who did not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import codes, gcloud
from .errors import say
from .pod import Node, Pod
from .processes import Output
from .quoting import line

NEW = 'new'  # what a host that was not set up calls itself
ATTEMPTS = 3
Run = Callable[[Sequence[str], float], Output]  # of `Commands`: (words, limit)


class Answer(NamedTuple):
  """What a verb of worker.sh ends with: '@sslax HOST CODE TEXT'."""

  code: int
  text: str


class Host(NamedTuple):
  name: str  # w3, or s1w3 where there are several slices
  node: str
  number: int  # in its node


@dataclasses.dataclass
class Answers:
  """
  Attributes:
    said: host -> its answer.
    missing: host -> why it has none.
  """

  said: dict[str, Answer] = dataclasses.field(default_factory=dict)
  missing: dict[str, str] = dataclasses.field(default_factory=dict)

  @property
  def new(self) -> bool:
    return NEW in self.said

  @property
  def silent(self) -> str:
    """The hosts without an answer, in words."""
    return ', '.join(f'{host} ({why})' for host, why in self.missing.items())

  def sorted(self) -> list[tuple[str, Answer]]:
    return sorted(self.said.items(), key=lambda item: _natural(item[0]))

  def code(self, what: str) -> int:
    """0 where all hosts answered so; otherwise says which did not, and is the worst of their codes."""
    bad = [(host, answer) for host, answer in self.sorted() if answer.code]
    for host, answer in bad:
      say(f'{host}: {answer.text}')
    if self.missing:
      say(f'{what}: not done on {self.silent}')
    return codes.worst(answer.code for _, answer in bad) or (codes.LOST if self.missing else codes.DONE)


def parse(text: str) -> dict[str, Answer]:
  """host -> answer, of all that hosts printed."""
  found = re.findall(r'^@sslax (\S+) (\d+) ?(.*)$', text, re.MULTILINE)
  return {host: Answer(int(code), words.strip()) for host, code, words in found}


def verb(place: str, name: str, *arguments: object) -> str:
  """The line that runs a verb of worker.sh.

  Args:
    place: 'current' or 'code/HASH', which a host of a pod that was just made has not.
  """
  new = f"[ -e sslax/{place} ] || {{ echo @sslax {NEW} 2 'not set up; launch/tpu setup does it'; exit 0; }}; "
  return new + line(['bash', f'sslax/{place}/launch/lib/worker.sh', name, *map(str, arguments)])


class Fleet:
  """The hosts of a pod that is ACTIVE."""

  def __init__(self, pod: Pod, nodes: Sequence[Node]):
    self.pod, self.nodes = pod, list(nodes)

  def hosts(self) -> list[Host]:
    return [host for node in self.nodes for host in self.hosts_of(node)]

  def hosts_of(self, node: Node) -> list[Host]:
    prefix = f's{node.name.rpartition("-")[2]}' if len(self.nodes) > 1 else ''
    return [Host(f'{prefix}w{number}', node.name, number) for number in range(len(node.addresses))]

  def __len__(self) -> int:
    return sum(len(node.addresses) for node in self.nodes)

  def ask(self, command: str, limit: float) -> Answers:
    """The answers to a shell command that changes nothing."""
    return self._everywhere(self.pod.commands.ask, command, limit)

  def change(self, command: str, limit: float) -> Answers:
    """As `ask`, for one that changes something; under dry_run it is printed, and nobody answers."""
    if self.pod.dry_run:
      for node in self.nodes:
        self.pod.commands.change(self.ssh(node.name, 'all', command), limit)
      return Answers()
    return self._everywhere(self.pod.commands.change, command, limit)

  def ssh(self, node: str, worker: object, command: str) -> list[str]:
    return gcloud.ssh(self.pod.options, node, worker, command)

  def _everywhere(self, run: Run, command: str, limit: float) -> Answers:
    """All at once; then those that did not answer, alone."""
    answers = Answers()
    for node in self.nodes:
      answers.said.update(parse(run(self.ssh(node.name, 'all', command), limit).out))
      for host in self.hosts_of(node):
        if answers.new:
          break
        if host.name not in answers.said:
          self._alone(run, host, command, limit, answers)
    return answers

  def _alone(self, run: Run, host: Host, command: str, limit: float, answers: Answers) -> None:
    """One host, up to three times in all where ssh failed or was too slow; the command's own code is no reason to repeat it."""
    for _ in range(1, ATTEMPTS):
      output = run(self.ssh(host.node, host.number, command), limit)
      answers.said.update(parse(output.out))
      if host.name in answers.said or answers.new:
        return
      if output.code not in (codes.SSH_FAILED, codes.TOO_SLOW):
        answers.missing[host.name] = f'code {output.code}: {output.last_words[:200]}'
        return
    answers.missing[host.name] = 'no answer by ssh'


def _natural(name: str) -> list[tuple[int, str]]:
  """w10 after w9."""
  return [(int(part), '') if part.isdigit() else (0, part) for part in re.split(r'(\d+)', name)]

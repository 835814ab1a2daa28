"""A pod as Google has it: one queued resource, and a node for each slice."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from . import codes, gcloud
from .errors import Mistake, Stop, say
from .memory import Memory
from .options import Options
from .processes import Commands
from .settings import Seconds

ABSENT, UNKNOWN, ACTIVE, READY = 'ABSENT', 'UNKNOWN', 'ACTIVE', 'READY'


class Resource(NamedTuple):
  """A queued resource: ABSENT where there is none, UNKNOWN where Google did not answer."""

  state: str
  label: str = ''
  type: str = ''


class Node(NamedTuple):
  """A slice; its hosts are counted by their addresses, never computed from the type."""

  name: str
  state: str
  addresses: tuple[str, ...]


@dataclasses.dataclass
class Pod:
  """What a command is given: which pod, the flags, and the means."""

  options: Options
  memory: Memory
  commands: Commands
  seconds: Seconds

  @property
  def name(self) -> str:
    return self.options.name

  @property
  def dry_run(self) -> bool:
    return self.options.dry_run


def look_at(pod: Pod) -> Resource:
  try:
    answer = gcloud.look(pod.commands, gcloud.describe_resource(pod.options), pod.seconds.api)
  except gcloud.Absent:
    return Resource(ABSENT)
  except gcloud.NoAnswer as why:
    say(str(why))
    return Resource(UNKNOWN)
  state, label, kind = (answer.split(',') + ['', ''])[:3]
  return Resource(state, label, kind)


def look_at_nodes(pod: Pod) -> list[Node]:
  names = [pod.name]
  if pod.options.slices > 1:  # named by Google
    names = [f'{pod.name}-{number}' for number in range(pod.options.slices)]
  return [_look_at_node(pod, name) for name in names]


def _look_at_node(pod: Pod, name: str) -> Node:
  try:
    answer = gcloud.look(pod.commands, gcloud.describe_node(pod.options, name), pod.seconds.api)
  except gcloud.Absent:
    return Node(name, ABSENT, ('',))
  except gcloud.NoAnswer as why:
    say(str(why))
    return Node(name, UNKNOWN, ('',))
  state, _, addresses = answer.partition(',')
  return Node(name, state, tuple(addresses.split(';')))


def state_of(nodes: list[Node]) -> str:
  """READY, or the state of the first that is not."""
  return next((node.state for node in nodes if node.state != READY), READY)


def need_ours(pod: Pod, resource: Resource) -> None:
  """
  Raises:
    Mistake: it does not carry our label.
  """
  if resource.label != pod.name:
    raise Mistake(
      f'the queued resource {pod.name} ({resource.state}) has no label sslax={pod.name}: it was not made by launch/tpu, '
      'and is left alone. Take another --name'
    )


def need_active(pod: Pod) -> list[Node]:
  """The nodes of a pod that is there and ours.

  Raises:
    Mistake, Stop: it is not.
  """
  resource = look_at(pod)
  if resource.state == ABSENT:
    raise Mistake(f'there is no pod {pod.name} in {pod.options.zone}; launch/tpu create makes it')
  if resource.state == UNKNOWN:
    raise Stop(codes.LOST)
  if resource.state != ACTIVE:
    watch = 'launch/tpu watch waits for it and makes it again where it must'
    raise Stop(codes.LOST, f'the pod {pod.name} is {resource.state}; {watch}')
  need_ours(pod, resource)
  nodes = look_at_nodes(pod)
  if state_of(nodes) != READY:
    raise Stop(codes.LOST, f'a host of {pod.name} is {state_of(nodes)}')
  return nodes

"""A pod is made, waited for, and deleted."""

from __future__ import annotations

import dataclasses
import time

from . import codes, flags, gcloud
from .errors import Mistake, Stop, say
from .options import checked_for_create
from .pod import ABSENT, ACTIVE, UNKNOWN, Pod, look_at, need_ours

DEAD = ('FAILED', 'SUSPENDED')  # neither recovers, and both hold quota until they are deleted
DELETE_SECONDS = 1800
DELETE_ATTEMPTS = 3


def create(pod: Pod) -> int:
  """The command."""
  pod = dataclasses.replace(pod, options=checked_for_create(pod.options))
  resource = look_at(pod)
  if resource.state == UNKNOWN:
    return codes.LOST
  if resource.state in DEAD:
    need_ours(pod, resource)
    say(f'the pod {pod.name} is {resource.state}: it is deleted and made again')
    if not delete_pod(pod):
      return codes.REFUSED
  elif resource.state != ABSENT:
    need_ours(pod, resource)
    if resource.type != pod.options.type:
      raise Mistake(f'the pod {pod.name} exists as {resource.type}; delete it first, or take another --name')
    say(f'the pod {pod.name} exists: {resource.state}')
    pod.memory.keep(pod.options)
    return wait_until_active(pod) if pod.options.wait else codes.DONE
  if not create_pod(pod):
    return codes.REFUSED
  return wait_until_active(pod) if pod.options.wait and not pod.dry_run else codes.DONE


def create_pod(pod: Pod) -> bool:
  """Asks Google for it; False: refused."""
  options = pod.options
  say(
    f'{options.slices} x {options.type} in {options.zone}, {options.capacity}: '
    f'paid for from ACTIVE until launch/tpu delete --name={pod.name}'
  )
  pod.memory.keep(options)
  pod.memory.forget('setup')
  if pod.commands.change_aloud(gcloud.create(options), pod.seconds.api):
    say('Google refused; its message is above')
    return False
  return True


def wait_until_active(pod: Pod) -> int:
  started, limit = time.time(), pod.options.timeout
  while True:
    state = look_at(pod).state
    if state == ACTIVE:
      say(f'the pod {pod.name} is ACTIVE')
      return codes.DONE
    if state in (*DEAD, ABSENT):
      say(f'the pod {pod.name} is {state}; launch/tpu create makes it again')
      return codes.LOST
    if limit and time.time() - started >= flags.seconds(limit):
      say(f'the pod {pod.name} is {state} after {limit}; it stays in the queue until launch/tpu delete')
      return codes.LOST
    time.sleep(pod.seconds.poll)


def delete(pod: Pod) -> int:
  """The command."""
  resource = look_at(pod)
  if resource.state == UNKNOWN:
    raise Stop(codes.LOST)
  if resource.state == ABSENT:
    say(f'there is no pod {pod.name}')
  else:
    need_ours(pod, resource)
    if not delete_pod(pod):
      return codes.REFUSED
    say(f'the pod {pod.name} is deleted')
  pod.memory.forget('pod')
  return codes.DONE


def delete_pod(pod: Pod) -> bool:
  """Its nodes and disks with it; the caller has seen our label. False: it is still there."""
  for attempt in range(1, DELETE_ATTEMPTS + 1):
    if pod.commands.change_aloud(gcloud.delete(pod.options), DELETE_SECONDS) == 0:
      pod.memory.forget('setup')
      return True
    if attempt < DELETE_ATTEMPTS:
      time.sleep(pod.seconds.backoff)
  say(f"the pod {pod.name} is NOT deleted, and is still paid for; Google's message is above")
  return False

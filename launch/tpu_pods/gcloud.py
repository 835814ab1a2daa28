"""Command lines of gcloud, and questions to Google: GA commands only, except through a tunnel, which is alpha.

Each line is a list of words. The tests give all of them to gcloud's own parser.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from . import codes
from .errors import Stop
from .options import Options
from .processes import Commands

ATTEMPTS = 3
_ABSENT = re.compile('NOT_FOUND|was not found')
_REFUSED = re.compile('PERMISSION_DENIED|active account|unrecognized arguments|INVALID_ARGUMENT|reauth')


class Absent(Exception):
  """There is no such thing."""


class Refused(Stop):
  """Google will not answer this, however often it is asked. Exit code 2, with what gcloud said."""

  def __init__(self, message: str):
    super().__init__(codes.USER_ERROR, message)


class NoAnswer(Exception):
  """None in three attempts; why, as far as it is known."""


def look(commands: Commands, words: Sequence[str], limit: float) -> str:
  """The answer to a question that changes nothing.

  Args:
    limit: seconds, of each attempt.

  Raises:
    Absent, Refused, NoAnswer.
  """
  for attempt in range(1, ATTEMPTS + 1):
    output = commands.ask(words, limit)
    if output.code == 0:
      return output.out.strip('\n')
    if _ABSENT.search(output.err):
      raise Absent
    if _REFUSED.search(output.err):
      raise Refused(output.err.strip('\n'))
    if attempt < ATTEMPTS:
      time.sleep(attempt)
  raise NoAnswer(f'no answer from Google in three attempts: {output.last_words}')


def where(options: Options) -> list[str]:
  return [f'--zone={options.zone}', *project(options)]


def project(options: Options) -> list[str]:
  return [f'--project={options.project}'] if options.project else []


# Questions


def describe_resource(options: Options) -> list[str]:
  """The answer is 'STATE,LABEL,TYPE'."""
  fields = 'state.state,tpu.nodeSpec[0].node.labels.sslax,tpu.nodeSpec[0].node.acceleratorType'
  return _resources('describe', options) + [f'--format=csv[no-heading]({fields})']


def describe_node(options: Options, node: str) -> list[str]:
  """The answer is 'STATE,ADDRESS;ADDRESS'."""
  return [*_TPU, 'tpu-vm', 'describe', node, *where(options), '--format=csv[no-heading](state,networkEndpoints[].ipAddress)']


def describe_bucket(options: Options, bucket: str) -> list[str]:
  return ['gcloud', 'storage', 'buckets', 'describe', bucket, *project(options), '--format=value(location)']


def list_types(options: Options) -> list[str]:
  return [*_TPU, 'accelerator-types', 'list', *where(options), '--format=value(type)']


def list_quotas(project: str) -> list[str]:
  """The answer is 'QUOTA,VALUE,ZONE,ZONES' a line."""
  fields = 'quotaId,dimensionsInfos.details.value,dimensionsInfos.dimensions.zone,dimensionsInfos.applicableLocations'
  which = ['--service=tpu.googleapis.com', f'--project={project}', '--flatten=dimensionsInfos[]']
  return ['gcloud', 'beta', 'quotas', 'info', 'list', *which, f'--format=csv[no-heading]({fields})']


# Changes


def create(options: Options) -> list[str]:
  nodes = [f'--node-id={options.name}']
  if options.slices > 1:  # Google names them: prefix and number
    nodes = [f'--node-count={options.slices}', f'--node-prefix={options.name}']
  what = [f'--accelerator-type={options.type}', f'--runtime-version={options.runtime}', f'--labels=sslax={options.name}']
  more = {
    '--spot': options.spot,
    '--reserved': options.reserved,
    f'--service-account={options.service_account}': options.service_account,
    f'--network={options.network}': options.network,
    f'--subnetwork={options.subnetwork}': options.subnetwork,
    '--internal-ips': options.internal_ip,
    f'--valid-until-duration={options.valid_for}': options.valid_for,
  }
  return _resources('create', options) + [*nodes, *what, *(word for word, given in more.items() if given), '--async', '--quiet']


def delete(options: Options) -> list[str]:
  return _resources('delete', options) + ['--force', '--quiet']  # --force: its nodes with it


def ssh(options: Options, node: str, worker: object, command: str = '') -> list[str]:
  """
  Args:
    worker: number of the host in its node, or 'all'.
    command: one line for its shell; '': a shell for the person.
  """
  ours = [f'--worker={worker}', *([f'--command={command}'] if command else [])]
  return [*_to_hosts(options), 'ssh', node, *_access(options), *ours]


def scp(options: Options, source: object, node: str, place: str) -> list[str]:
  """To all hosts of a node."""
  return [*_to_hosts(options), 'scp', str(source), f'{node}:{place}', *_access(options), '--worker=all']


_TPU = ('gcloud', 'compute', 'tpus')


def _resources(verb: str, options: Options) -> list[str]:
  return [*_TPU, 'queued-resources', verb, options.name, *where(options)]


def _to_hosts(options: Options) -> list[str]:
  return ['gcloud', *(['alpha'] if options.tunnel_through_iap else []), 'compute', 'tpus', 'tpu-vm']


def _access(options: Options) -> list[str]:
  # gcloud takes one of the two; a pod without public addresses is reached by either.
  way = ['--tunnel-through-iap'] if options.tunnel_through_iap else ['--internal-ip'] if options.internal_ip else []
  return [*where(options), '--quiet', '--strict-host-key-checking=no', *way]

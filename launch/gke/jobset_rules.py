"""What is wrong with a JobSet although its YAML is valid, and what its failure rules come to.

Kubernetes accepts a restart policy that never acts, a slice with too few pods and an action that no controller knows: it skips
what it does not understand, without a word.
"""

import re
from typing import Any

from tpu_slices import GENERATIONS, size

from sslax.errors import DIVERGED, INTERRUPTED, USER_ERROR, suggest

MOUNT = '/gcs'
SAVE_SECONDS = 30  # what a save is given: launch/tpu kill waits as long

FAIL, RESTART, RESTART_FREE = 'FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts'
JOBSET_ACTIONS = (FAIL, RESTART, RESTART_FREE, 'RestartJob', 'RestartJobAndIgnoreMaxRestarts')
POD_ACTIONS = ('FailJob', 'FailIndex', 'Ignore', 'Count')
REASONS = ('BackoffLimitExceeded', 'DeadlineExceeded', 'FailedIndexes', 'MaxFailedIndexesExceeded', 'PodFailurePolicy')
LABEL = re.compile(r'[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?')
HOSTNAME = re.compile(r'[a-z]([a-z0-9-]*[a-z0-9])?')


def outcome(jobset: dict[str, Any], exit_code: int, *, disrupted: bool = False) -> str:
  """The action that follows when a container ends so: what Kubernetes' Job controller and then JobSet's do with the rules."""
  job = jobset['spec']['replicatedJobs'][0]['template']['spec']
  reason, message = 'BackoffLimitExceeded', 'Job has reached the specified backoff limit'
  for index, rule in enumerate(job.get('podFailurePolicy', {}).get('rules', [])):
    codes = rule.get('onExitCodes')
    conditions = [
      c for c in rule.get('onPodConditions', []) if c['type'] == 'DisruptionTarget' and c.get('status', 'True') == 'True'
    ]
    if codes and (exit_code in codes['values']) == (codes['operator'] == 'In') or conditions and disrupted:
      if rule['action'] != 'FailJob':
        return rule['action']
      what = f'has condition {conditions[0]["type"]}' if conditions else f'failed with exit code {exit_code}'
      reason, message = 'PodFailurePolicy', f'Container or pod {what} matching FailJob rule at index {index}'
      break
  for rule in jobset['spec']['failurePolicy'].get('rules', []):
    reasons, patterns = rule.get('onJobFailureReasons', []), rule.get('onJobFailureMessagePatterns', [])
    targets = rule.get('targetReplicatedJobs', [])
    if (not reasons or reason in reasons) and (not patterns or any(re.search(p, message) for p in patterns)):
      if not targets or jobset['spec']['replicatedJobs'][0]['name'] in targets:
        return rule['action']
  return RESTART  # what JobSet does where no rule matches


def problems(jobset: dict[str, Any]) -> list[str]:
  """What is wrong with a JobSet although its YAML is valid: eight rules, a line each."""
  try:
    return [f'{rule.__doc__.split(":")[0]}: {found}' for rule in RULES for found in rule(jobset)]
  except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
    return [f'no JobSet as render.py makes them: {type(error).__name__}: {error}']


def _parts(jobset):
  """(child Job, pod, first container) of the only replicated job."""
  (replicated,) = jobset['spec']['replicatedJobs']
  job = replicated['template']['spec']
  pod = job['template']['spec']
  return replicated, job, pod, pod['containers'][0]


def _actions(jobset):
  """actions: those that the controllers know; an unknown one is skipped without a word."""
  for rule in jobset['spec']['failurePolicy'].get('rules', []):
    if rule['action'] not in JOBSET_ACTIONS:
      yield f'failurePolicy has {rule["action"]!r}.{suggest(rule["action"], JOBSET_ACTIONS)}'
    for reason in rule.get('onJobFailureReasons', []):
      if reason not in REASONS:
        yield f'failurePolicy has the reason {reason!r}.{suggest(reason, REASONS)}'
  for rule in _parts(jobset)[1].get('podFailurePolicy', {}).get('rules', []):
    if rule['action'] not in POD_ACTIONS:
      yield f'podFailurePolicy has {rule["action"]!r}.{suggest(rule["action"], POD_ACTIONS)}'


def _never(jobset):
  """restarts: of the whole JobSet only, so pods and Jobs do none of their own."""
  _, job, pod, _ = _parts(jobset)
  if pod.get('restartPolicy') != 'Never':
    yield f'restartPolicy is {pod.get("restartPolicy")!r}; podFailurePolicy works with Never only'
  if job.get('backoffLimit', 6) != 0:
    yield f'backoffLimit is {job.get("backoffLimit", 6)}, not 0: a pod that comes back alone finds no peers'


def _hosts(jobset):
  """hosts: a pod for each host of the slice, and slices that do not mix."""
  _, job, pod, _ = _parts(jobset)
  hosts, _ = size(pod['nodeSelector']['cloud.google.com/gke-tpu-topology'])
  for key in ('parallelism', 'completions'):
    if job.get(key, 1) != hosts:
      yield f'{key} is {job.get(key, 1)}, and the slice has {hosts} host(s)'
  exclusive = jobset['metadata'].get('annotations', {}).get('alpha.jobset.sigs.k8s.io/exclusive-topology')
  if exclusive != 'cloud.google.com/gke-nodepool':
    yield f'the annotation exclusive-topology is {exclusive!r}, not cloud.google.com/gke-nodepool'


def _chips(jobset):
  """chips: those that a host of this topology has."""
  _, _, pod, container = _parts(jobset)
  select = pod['nodeSelector']
  accelerator, topology = select['cloud.google.com/gke-tpu-accelerator'], select['cloud.google.com/gke-tpu-topology']
  known = {gke: topologies for gke, _, topologies in GENERATIONS.values()}
  if accelerator not in known:
    yield f'gke-tpu-accelerator is {accelerator!r}.{suggest(accelerator, known)}'
  elif topology not in known[accelerator]:
    yield f'gke-tpu-topology is {topology!r}.{suggest(topology, known[accelerator])}'
  else:
    for key in ('requests', 'limits'):
      found = container['resources'][key].get('google.com/tpu')
      if found != size(topology)[1]:
        yield f'{key} of google.com/tpu are {found}, and a host of {topology} has {size(topology)[1]} chip(s)'


def _grace(jobset):
  """grace: enough to save the state after SIGTERM."""
  grace = _parts(jobset)[2].get('terminationGracePeriodSeconds', 30)
  if grace < SAVE_SECONDS:
    yield f'terminationGracePeriodSeconds is {grace}, and saving may take {SAVE_SECONDS}'


def _exec_form(jobset):
  """command: words, no shell, so that SIGTERM reaches Python and its exit code reaches Kubernetes."""
  command = _parts(jobset)[3].get('command')
  if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
    yield f'{command!r} is no list of words'
  elif command[0].rpartition('/')[2] in ('sh', 'bash', 'dash', 'env', 'nohup', 'timeout') or ' ' in command[0]:
    yield f'{command[0]!r} stands before Python'
  elif not any(word.startswith(f'--workdir={MOUNT}/') for word in command) and 'sslax.train' in command:
    yield f'--workdir is not under {MOUNT}: the state would be lost with the pod'


def _names(jobset):
  """names: at most 63 characters of those that host names and labels may have."""
  replicated, job, pod, _ = _parts(jobset)
  longest = (
    f'{jobset["metadata"]["name"]}-{replicated["name"]}-{replicated.get("replicas", 1) - 1}-{job.get("completions", 1) - 1}'
  )
  if not HOSTNAME.fullmatch(longest) or len(longest) > 63:
    yield f'the last host would be {longest!r} ({len(longest)} characters): lower case, digits, -, a letter first, 63 at most'
  labels = jobset['metadata'].get('labels', {}) | job['template'].get('metadata', {}).get('labels', {}) | pod['nodeSelector']
  for key, value in labels.items():
    if not isinstance(value, str) or not LABEL.fullmatch(value) or len(value) > 63:
      yield f'the label {key} is {value!r}: letters, digits, - _ ., 63 at most'


def _exit_codes(jobset):
  """exit codes: 2 and 3 end the run, 42 and disruptions restart it for nothing, all else as often as allowed."""
  for rule in _parts(jobset)[1].get('podFailurePolicy', {}).get('rules', []):
    codes = rule.get('onExitCodes', {})
    values = codes.get('values', [1])
    if values != sorted(set(values)) or not 0 <= values[0] <= values[-1] <= 255 or codes.get('operator') == 'In' and 0 in values:
      yield f'values {values} must rise, from 1 to 255'
  expected = {USER_ERROR: FAIL, DIVERGED: FAIL, INTERRUPTED: RESTART_FREE} | {code: RESTART for code in (1, 134, 137, 139, 170)}
  for code, action in expected.items():
    if outcome(jobset, code) != action:
      yield f'exit {code} leads to {outcome(jobset, code)}, not to {action}'
  if outcome(jobset, 143, disrupted=True) != RESTART_FREE:
    yield f'a disruption leads to {outcome(jobset, 143, disrupted=True)}, not to {RESTART_FREE}'


RULES = (_actions, _never, _hosts, _chips, _grace, _exec_form, _names, _exit_codes)

"""A JobSet for GKE that trains on TPU slices, and goes on by itself after maintenance, preemption and crashes:

    python launch/gke/render.py --name=r1 --type=v5e:4x4 --image=IMAGE --bucket=BUCKET \\
        -- --config=configs/simclr.py:imagenet > r1.yaml
    kubectl apply -f r1.yaml

What stands after -- goes to sslax.train; the workdir is /gcs/NAME, a folder of the bucket. What is printed has passed the rules
of `problems` below, which also read YAML edited by hand: python launch/gke/render.py --check=r1.yaml
"""

import math
import pathlib
import re
import sys
from typing import Any

import yaml
from absl import flags

from sslax.errors import DIVERGED, INTERRUPTED, USER_ERROR, UserError, suggest
from sslax.run import cli

# generation -> (GKE's name, cores a chip in Cloud's names, topologies), as in xpk 1.16's table; 1x1 and 2x2 of v5e are from GKE's
# documentation. Larger slices of v4, v5p and tpu7x exist: add yours.
_CUBES = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8')
_SQUARES = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
GENERATIONS = {
  'v4': ('tpu-v4-podslice', 2, _CUBES),
  'v5e': ('tpu-v5-lite-podslice', 1, _SQUARES),
  'v5p': ('tpu-v5p-slice', 2, _CUBES),
  'v6e': ('tpu-v6e-slice', 1, _SQUARES),
  'tpu7x': ('tpu7x', 2, _CUBES),
}
CHIPS_PER_HOST = 4  # of every slice above one chip
SAVE_SECONDS = 30  # what a save is given: launch/tpu kill waits as long
MOUNT = '/gcs'
JOB, CONTAINER = 'slice', 'sslax'

FAIL, RESTART, RESTART_FREE = 'FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts'
JOBSET_ACTIONS = (FAIL, RESTART, RESTART_FREE, 'RestartJob', 'RestartJobAndIgnoreMaxRestarts')
POD_ACTIONS = ('FailJob', 'FailIndex', 'Ignore', 'Count')
REASONS = ('BackoffLimitExceeded', 'DeadlineExceeded', 'FailedIndexes', 'MaxFailedIndexesExceeded', 'PodFailurePolicy')
LABEL = re.compile(r'[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?')
HOSTNAME = re.compile(r'[a-z]([a-z0-9-]*[a-z0-9])?')


def size(topology: str) -> tuple[int, int]:
  """(hosts, chips a host) of a slice, '4x4' say."""
  chips = math.prod(int(side) for side in topology.split('x'))
  return max(1, chips // CHIPS_PER_HOST), min(chips, CHIPS_PER_HOST)


def slice_types() -> dict[str, tuple[str, str]]:
  """What --type may say -> (generation, topology): 'v5e:4x4', or Cloud's names by chips or cores, 'v5litepod-16' or 'v5e-16'."""
  known = {}
  for generation, (_, cores, topologies) in GENERATIONS.items():
    for topology in topologies:
      where = generation, topology
      count = math.prod(size(topology)) * cores
      known |= {f'{generation}:{topology}': where, f'{generation}-{count}': where}
      if generation == 'v5e':
        known[f'v5litepod-{count}'] = where
  return known


def render(
  *,
  name: str,
  slice_type: str,
  image: str,
  bucket: str,
  command: list[str],
  slices: int = 1,
  restarts: int = 50,
  grace: int = 60,
  queue: str = '',
  service_account: str = '',
  spot: bool = False,
  env: dict[str, str] | None = None,
) -> dict[str, Any]:
  """The JobSet: one child Job a slice, one pod a host, all restarted together.

  Args:
    slice_type: a key of `slice_types()`.
    command: what the container runs, a word an item: no shell stands between Kubernetes and Python, so SIGTERM arrives.

  Raises:
    UserError: no such type.
  """
  known = slice_types()
  if slice_type not in known:
    raise UserError(f'--type={slice_type}: no such slice.{suggest(slice_type, known)}')
  generation, topology = known[slice_type]
  hosts, chips = size(topology)
  env = {'JAX_COMPILATION_CACHE_DIR': f'{MOUNT}/jax_cache', 'TPU_STDERR_LOG_LEVEL': '0'} | (env or {})
  # A Job says only that its policy failed it, not by which rule; the message says it. JobSet 0.10 and newer reads messages.
  pod_rules = [
    {'action': 'FailJob', 'onExitCodes': {'containerName': CONTAINER, 'operator': 'In', 'values': [USER_ERROR, DIVERGED]}},
    {'action': 'FailJob', 'onExitCodes': {'containerName': CONTAINER, 'operator': 'In', 'values': [INTERRUPTED]}},
    {'action': 'FailJob', 'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}]},
  ]
  names = (('hopeless', FAIL, '0'), ('interrupted', RESTART_FREE, '[12]'))
  rules = [
    {
      'name': rule,
      'action': action,
      'onJobFailureReasons': ['PodFailurePolicy'],
      'onJobFailureMessagePatterns': [f'matching FailJob rule at index {index}$'],
    }
    for rule, action, index in names
  ]
  rules.append({'name': 'crashed', 'action': RESTART})  # 170, a lost peer, out of memory, anything else
  container = {
    'name': CONTAINER,
    'image': image,
    'command': command,
    'env': [{'name': key, 'value': value} for key, value in env.items()],
    # TPU hosts among each other; slices among each other
    'ports': [{'containerPort': 8471, 'protocol': 'TCP'}, {'containerPort': 8080, 'protocol': 'TCP'}],
    # The image's user is no root, and the nodes of TPUs let nobody else open the chips.
    'securityContext': {'privileged': True, 'runAsUser': 0},
    'resources': {'requests': {'google.com/tpu': chips}, 'limits': {'google.com/tpu': chips}},
    'volumeMounts': [{'name': 'gcs', 'mountPath': MOUNT}, {'name': 'shm', 'mountPath': '/dev/shm'}],
  }
  options = 'implicit-dirs,rename-dir-limit=100000'  # checkpoints are committed by renaming a folder
  pod = {
    'restartPolicy': 'Never',
    'terminationGracePeriodSeconds': grace,
    **({'serviceAccountName': service_account} if service_account else {}),
    'nodeSelector': {
      'cloud.google.com/gke-tpu-accelerator': GENERATIONS[generation][0],
      'cloud.google.com/gke-tpu-topology': topology,
      **({'cloud.google.com/gke-spot': 'true'} if spot else {}),
    },
    'tolerations': [{'key': 'google.com/tpu', 'operator': 'Exists'}]
    + [{'key': 'cloud.google.com/gke-spot', 'operator': 'Equal', 'value': 'true', 'effect': 'NoSchedule'}] * spot,
    'containers': [container],
    'volumes': [
      {'name': 'gcs', 'csi': {'driver': 'gcsfuse.csi.storage.gke.io',
       'volumeAttributes': {'bucketName': bucket, 'mountOptions': options}}},
      {'name': 'shm', 'emptyDir': {'medium': 'Memory'}},
    ],
  }  # fmt: skip
  job = {
    'parallelism': hosts,
    'completions': hosts,
    'backoffLimit': 0,  # one pod alone is never started again: its peers would wait for it
    'podFailurePolicy': {'rules': pod_rules},
    'template': {'metadata': {'annotations': {'gke-gcsfuse/volumes': 'true'}}, 'spec': pod},
  }
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': {
      'name': name,
      'labels': {'app.kubernetes.io/name': 'sslax', **({'kueue.x-k8s.io/queue-name': queue} if queue else {})},
      # One slice, one node pool: without it the pods of two slices mix, and neither finds its neighbours.
      'annotations': {'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'},
    },
    'spec': {
      'network': {'enableDNSHostnames': True, 'publishNotReadyAddresses': True},
      'failurePolicy': {'maxRestarts': restarts, 'rules': rules},
      'replicatedJobs': [{'name': JOB, 'replicas': slices, 'template': {'spec': job}}],
    },
  }


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


def define_flags() -> None:
  flags.DEFINE_string('name', '', 'Of the JobSet and of the run: the same name goes on where that run stopped.')
  flags.DEFINE_string('type', '', 'The slice, GENERATION:TOPOLOGY as sslax.plan has it (v5e:4x4), or its name (v5litepod-16).')
  flags.DEFINE_integer('slices', 1, 'Slices of that type, joined by the data centre network.', lower_bound=1)
  flags.DEFINE_string('image', '', 'The image to run, made from launch/docker/Dockerfile, with a tag or digest.')
  flags.DEFINE_string('bucket', '', 'The bucket to mount as /gcs, best one with a hierarchical namespace.')
  flags.DEFINE_integer(
    'restarts', 50, 'After crashes and lost peers; maintenance, preemption and exit 42 do not count.', lower_bound=0
  )
  flags.DEFINE_integer('grace', 60, 'Seconds between SIGTERM and SIGKILL: time to save the state.')
  flags.DEFINE_string('queue', '', 'The Kueue LocalQueue to wait in; default: none, the JobSet starts at once.')
  flags.DEFINE_string('service_account', '', 'The Kubernetes service account that may read and write the bucket.')
  flags.DEFINE_bool('spot', False, 'On spot nodes, which may be taken back at any time.')
  flags.DEFINE_multi_string('env', [], 'NAME=VALUE for the container; may be given several times.')
  flags.DEFINE_string('check', '', 'Only check the JobSet in this file.')


def main(train_flags: list[str]) -> None:
  given = flags.FLAGS
  if given.check:
    try:
      jobset = yaml.safe_load(pathlib.Path(given.check).read_text(encoding='utf-8'))
    except (OSError, yaml.YAMLError) as error:
      raise UserError(f'--check={given.check}: {" ".join(str(error).split())}') from None
    if found := problems(jobset):
      raise UserError(f'{given.check}:\n' + '\n'.join(found))
    print(f'{given.check}: good')
    return
  missing = [f'--{name}' for name in ('name', 'type', 'image', 'bucket') if not given[name].value]
  if missing:
    raise UserError(f'{", ".join(missing)} missing')
  if not any(word.startswith('--config=') for word in train_flags):
    raise UserError('what to train is missing: -- --config=configs/simclr.py:imagenet, as for sslax.train')
  if ':' not in given.image.rpartition('/')[2] or given.image.endswith(':latest'):
    raise UserError(f'--image={given.image} names no version: a restart might run other code. Add a tag or a digest')
  if wrong := [pair for pair in given.env if not re.fullmatch(r'[A-Za-z_]\w*=.*', pair, re.DOTALL)]:
    raise UserError(f'--env={wrong[0]} is not NAME=VALUE')
  if not re.fullmatch(r'[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]', given.bucket):
    raise UserError(f'--bucket={given.bucket} is no name of a bucket: without gs:// and folders')
  workdir = [] if any(word.startswith('--workdir=') for word in train_flags) else [f'--workdir={MOUNT}/{given.name}']
  jobset = render(
    name=given.name,
    slice_type=given.type,
    slices=given.slices,
    image=given.image,
    bucket=given.bucket,
    restarts=given.restarts,
    grace=given.grace,
    queue=given.queue,
    service_account=given.service_account,
    spot=given.spot,
    env=dict(pair.split('=', 1) for pair in given.env),
    command=['python', '-m', 'sslax.train', *train_flags, *workdir],
  )
  if found := problems(jobset):
    raise UserError('\n'.join(found))
  print(yaml.safe_dump(jobset, sort_keys=False, width=120), end='')


if __name__ == '__main__':
  define_flags()
  words = sys.argv
  end = words.index('--') if '--' in words else len(words)
  sys.argv = words[:end]
  cli.run(lambda: main(words[end + 1 :]))

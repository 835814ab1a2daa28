"""A JobSet for GKE that trains on TPU slices, and goes on by itself after maintenance, preemption and crashes:

    python launch/gke/render.py --name=r1 --type=v5e:4x4 --image=IMAGE --bucket=BUCKET \\
        -- --config=configs/simclr.py:imagenet > r1.yaml
    kubectl apply -f r1.yaml

What stands after -- goes to sslax.train; the workdir is /gcs/NAME, a folder of the bucket. What is printed has passed the rules
of jobset_rules.py, which also read YAML edited by hand: python launch/gke/render.py --check=r1.yaml
"""

import pathlib
import re
import sys
from typing import Any

import yaml
from absl import flags
from jobset_rules import FAIL, MOUNT, RESTART, RESTART_FREE, problems
from tpu_slices import GENERATIONS, size, slice_types

from sslax.errors import DIVERGED, INTERRUPTED, USER_ERROR, UserError, suggest
from sslax.run import cli

JOB, CONTAINER = 'slice', 'sslax'


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

"""GKE: the JobSet by its validators and by its own rules, mistakes on the command line, and xpk's arguments by xpk's dry run."""

import copy
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
RENDER, XPK = ROOT / 'launch' / 'gke' / 'render.py', ROOT / 'launch' / 'gke' / 'xpk.sh'


@pytest.fixture(scope='module')
def render():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(RENDER.parent)  # as Python does for a script
    spec = importlib.util.spec_from_file_location('gke_render', RENDER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def outcome(render):
  return sys.modules[render.problems.__module__].outcome


def jobset(render, **changes):
  command = ['python', '-m', 'sslax.train', '--config=configs/simclr.py:imagenet', '--workdir=/gcs/r1']
  arguments = dict(name='r1', slice_type='v5e:4x4', slices=2, image='registry/sslax:1', bucket='bucket', command=command)
  return render.render(**arguments | changes)


# Slices


@pytest.mark.parametrize(
  'slice_type, hosts, chips, accelerator',
  [
    ('v5e:1x1', 1, 1, 'tpu-v5-lite-podslice'),
    ('v5litepod-16', 4, 4, 'tpu-v5-lite-podslice'),
    ('v5e:16x16', 64, 4, 'tpu-v5-lite-podslice'),
    ('v6e:2x2', 1, 4, 'tpu-v6e-slice'),
    ('v6e-256', 64, 4, 'tpu-v6e-slice'),
    ('v5p:2x2x2', 2, 4, 'tpu-v5p-slice'),
    ('v5p-16', 2, 4, 'tpu-v5p-slice'),  # cores: eight chips
    ('v4-8', 1, 4, 'tpu-v4-podslice'),
    ('tpu7x:4x4x4', 16, 4, 'tpu7x'),
  ],
)
def test_hosts_and_chips(render, slice_type, hosts, chips, accelerator):
  job = jobset(render, slice_type=slice_type)['spec']['replicatedJobs'][0]['template']['spec']
  pod = job['template']['spec']
  assert (job['parallelism'], job['completions']) == (hosts, hosts)
  assert pod['containers'][0]['resources']['limits'] == {'google.com/tpu': chips}
  assert pod['nodeSelector']['cloud.google.com/gke-tpu-accelerator'] == accelerator


def test_every_slice_passes_the_rules(render):
  for slice_type in render.slice_types():
    assert render.problems(jobset(render, slice_type=slice_type, spot=True, queue='q', env={'A': 'b'})) == []


def test_what_each_end_leads_to(render, outcome):
  good = jobset(render)
  assert [outcome(good, code) for code in (2, 3)] == ['FailJobSet'] * 2
  assert outcome(good, 42) == outcome(good, 143, disrupted=True) == 'RestartJobSetAndIgnoreMaxRestarts'
  assert {outcome(good, code) for code in (1, 7, 134, 137, 139, 170)} == {'RestartJobSet'}


# Mutations: 'the rule that must say it: what is wrong'. Schemas know of a few of them only.


def _pod(j):
  return _job(j)['template']['spec']


def _job(j):
  return j['spec']['replicatedJobs'][0]['template']['spec']


def _rules(j):
  return j['spec']['failurePolicy']['rules']


MUTATIONS = {
  'actions: unknown action of the JobSet': lambda j: _rules(j)[0].update(action='FailJobset'),
  'actions: unknown action of the pods': lambda j: _job(j)['podFailurePolicy']['rules'][0].update(action='Fail'),
  'actions: unknown reason': lambda j: _rules(j)[0].update(onJobFailureReasons=['PodFailed']),
  'restarts: OnFailure beside podFailurePolicy': lambda j: _pod(j).update(restartPolicy='OnFailure'),
  'restarts: pods that come back alone': lambda j: _job(j).update(backoffLimit=3),
  'restarts: backoffLimit left out': lambda j: _job(j).pop('backoffLimit'),
  'hosts: too few pods': lambda j: _job(j).update(parallelism=2),
  'hosts: completions left out': lambda j: _job(j).pop('completions'),
  'hosts: slices that mix': lambda j: j['metadata'].pop('annotations'),
  'hosts: topology of another size': lambda j: _pod(j)['nodeSelector'].update({'cloud.google.com/gke-tpu-topology': '4x8'}),
  'chips: topology of another generation': lambda j: _pod(j)['nodeSelector'].update(
    {'cloud.google.com/gke-tpu-topology': '2x2x4'}
  ),
  'chips: unknown accelerator': lambda j: _pod(j)['nodeSelector'].update(
    {'cloud.google.com/gke-tpu-accelerator': 'tpu-v5e-slice'}
  ),
  'chips: chips of another host': lambda j: _pod(j)['containers'][0]['resources']['limits'].update({'google.com/tpu': 8}),
  'grace: no time to save': lambda j: _pod(j).update(terminationGracePeriodSeconds=5),
  'command: a shell': lambda j: _pod(j)['containers'][0].update(command=['bash', '-c', 'python -m sslax.train']),
  'command: a command in one word': lambda j: _pod(j)['containers'][0].update(command=['python -m sslax.train']),
  'command: state in the pod': lambda j: _pod(j)['containers'][0]['command'].__setitem__(-1, '--workdir=/tmp/r1'),
  'names: a long name': lambda j: j['metadata'].update(name='r' * 60),
  'names: a name with capitals': lambda j: j['metadata'].update(name='Run'),
  'names: a label with a space': lambda j: j['metadata']['labels'].update({'kueue.x-k8s.io/queue-name': 'my queue'}),
  'exit codes: interruptions that count': lambda j: _rules(j).pop(1),
  'exit codes: the wrong rule by its index': lambda j: _rules(j)[0].update(onJobFailureMessagePatterns=['at index 1$']),
  'exit codes: user errors that restart': lambda j: _job(j)['podFailurePolicy']['rules'][0]['onExitCodes'].update(values=[3]),
  'exit codes: stalls that end the run': lambda j: _job(j)['podFailurePolicy']['rules'][0]['onExitCodes'].update(
    values=[2, 3, 170]
  ),
  'exit codes: exit codes in no order': lambda j: _job(j)['podFailurePolicy']['rules'][0]['onExitCodes'].update(values=[3, 2]),
  'exit codes: preemptions that count': lambda j: _job(j)['podFailurePolicy']['rules'].pop(),
  'exit codes: preemptions by another condition': lambda j: _job(j)['podFailurePolicy']['rules'][2]['onPodConditions'][0].update(
    status='False'
  ),
  'exit codes: crashes that end the run': lambda j: _rules(j)[2].update(action='FailJobSet'),
  'no JobSet as render.py makes them: no container': lambda j: _pod(j).pop('containers'),
}


@pytest.mark.parametrize('name', MUTATIONS)
def test_mutations_are_caught(render, name):
  good = jobset(render)
  bad = copy.deepcopy(good)
  MUTATIONS[name](bad)
  assert bad != good and render.problems(good) == []
  assert any(problem.startswith(name.partition(':')[0] + ':') for problem in render.problems(bad)), render.problems(bad)


# Command line


def command(*words, timeout=60):
  env = os.environ | {'PYTHONPATH': str(ROOT)}
  started = time.time()
  done = subprocess.run([sys.executable, str(RENDER), *words], capture_output=True, text=True, env=env, timeout=timeout, cwd='/')
  return done.returncode, done.stdout, done.stderr, time.time() - started


GOOD = ['--name=r1', '--type=v5e:4x4', '--image=registry/sslax:1', '--bucket=bucket']
TRAIN = ['--', '--config=configs/simclr.py:imagenet', '--config.batch_size=4096']


@pytest.mark.slow
def test_the_printed_yaml_is_the_jobset_and_checks_out(render, tmp_path):
  code, out, err, _ = command(*GOOD, '--env=A=b=c', *TRAIN)
  assert code == 0, err
  train = ['python', '-m', 'sslax.train', *TRAIN[1:], '--workdir=/gcs/r1']
  assert yaml.safe_load(out) == jobset(render, slices=1, command=train, env={'A': 'b=c'})
  (tmp_path / 'r1.yaml').write_text(out.replace('backoffLimit: 0', 'backoffLimit: 6'))
  code, out, err, _ = command(f'--check={tmp_path / "r1.yaml"}')
  assert code == 2 and 'backoffLimit is 6' in err


@pytest.mark.parametrize(
  'words, said',
  [
    ([*GOOD, '--type=v5e:4x5', *TRAIN], 'v5e:4x4'),
    ([*GOOD, '--slice=2', *TRAIN], '--slices'.removeprefix('--')),
    ([*GOOD[:3], *TRAIN], '--bucket'),
    ([*GOOD, '--bucket=gs://bucket/folder', *TRAIN], 'without gs://'),
    ([*GOOD, '--image=registry/sslax:latest', *TRAIN], 'version'),
    ([*GOOD, '--name=My_Run', *TRAIN], 'lower case'),
    ([*GOOD, '--grace=5', *TRAIN], 'terminationGracePeriodSeconds is 5'),
    ([*GOOD, '--slices=0', *TRAIN], '--slices'),
    ([*GOOD, '--env=TOKEN', *TRAIN], 'NAME=VALUE'),
    (GOOD, '--config'),
    ([*GOOD, '--', '--config=configs/simclr.py', '--workdir=runs/x'], '/gcs'),
    (['--check=/no/such.yaml'], 'No such file'),
  ],
)
def test_mistakes_end_with_2_and_a_hint(words, said):
  code, out, err, seconds = command(*words)
  assert (code, out) == (2, '') and said in err and 'Traceback' not in err, err


# Validators, where they are installed


@pytest.mark.parametrize('slice_type, slices', [('v5e:4x4', 2), ('v6e:2x4', 1), ('v5p:2x2x2', 1)])
def test_schemas_know_every_field(render, slice_type, slices):
  models = pytest.importorskip('kubeflow_trainer_api.models')
  validate = pytest.importorskip('kubernetes_validate')
  good = jobset(render, slice_type=slice_type, slices=slices, spot=True, queue='q', service_account='s')

  def unknown(j):  # a field that the model does not have is gone after the round trip
    return json.loads(models.JobsetV1alpha2JobSet.from_dict(j).to_json()) != j

  assert not unknown(good)
  typo = copy.deepcopy(good)
  _rules(typo)[0]['onJobFailureMessagePattern'] = _rules(typo)[0].pop('onJobFailureMessagePatterns')
  assert unknown(typo)
  job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'r1'}}
  template = good['spec']['replicatedJobs'][0]['template']
  validate.validate(job | template, validate.latest_version(), strict=True)
  _pod(typo)['terminationGracePeriod'] = 60
  with pytest.raises(validate.ValidationError):
    validate.validate(job | typo['spec']['replicatedJobs'][0]['template'], validate.latest_version(), strict=True)


# xpk

XPK_FLAGS = ['--name=r1', '--cluster=c1', '--type=v5litepod-16', '--image=registry/sslax:1', '--workdir=/gcs/r1']


def xpk(*words, path=''):
  env = os.environ | {'PATH': f'{path}:{os.environ["PATH"]}'}
  done = subprocess.run(['bash', str(XPK), *words], capture_output=True, text=True, env=env, timeout=300)
  return done.returncode, done.stdout, done.stderr


def test_the_script_is_strict_and_clean():
  text = XPK.read_text(encoding='utf-8')
  assert text.startswith('#!/usr/bin/env bash\n') and 'set -euo pipefail' in text and os.access(XPK, os.X_OK)
  if checker := shutil.which('shellcheck'):
    done = subprocess.run([checker, '-x', '--severity=style', str(XPK)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_xpk_gets_its_own_arguments(tmp_path):
  (tmp_path / 'xpk').write_text(f'#!/usr/bin/env -S "{sys.executable}"\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n')
  (tmp_path / 'xpk').chmod(0o755)
  code, out, err = xpk(*XPK_FLAGS, '--project=p', '--xpk=--storage=gcs --priority=high', '--', '--config=a b.py', path=tmp_path)
  assert code == 0, err
  words = json.loads(out)
  assert words[:2] == ['workload', 'create'] and words[-2:] == ['--storage=gcs', '--priority=high']
  assert {'--workload=r1', '--num-slices=1', '--restart-on-exit-codes=42', '--max-restarts=50', '--project=p'} <= set(words)
  (command,) = (word for word in words if word.startswith('--command='))
  assert command.rstrip() == '--command=exec python -m sslax.train --config=a\\ b.py --workdir=/gcs/r1'


@pytest.mark.parametrize(
  'words, said',
  [
    ([*XPK_FLAGS[1:], '--', '--config=x'], '--name is missing'),
    ([*XPK_FLAGS, '--slice=2', '--', '--config=x'], '--slices'),
    (XPK_FLAGS, 'what to train'),
    ([*XPK_FLAGS, '--image=sslax', '--', '--config=x'], 'version'),
  ],
)
def test_xpk_mistakes_end_with_2(words, said, tmp_path):
  code, out, err = xpk(*words, path=tmp_path)
  assert (code, out) == (2, '') and said in err


# The page


@pytest.mark.slow
def test_the_commands_of_the_page(render, tmp_path):
  """Each block runs by bash, with stand-ins for what needs a cloud; render.py is the real one, xpk.sh too."""
  blocks = re.findall(r'```bash\n(.*?)```', (ROOT / 'docs' / 'launching_clusters.md').read_text(encoding='utf-8'), re.DOTALL)
  bin, project = tmp_path / 'bin', tmp_path / 'project'
  bin.mkdir()
  project.mkdir()
  for name in ('launch', 'configs', 'sslax', 'requirements.txt'):
    (project / name).symlink_to(ROOT / name)
  for name in ('docker', 'kubectl', 'xpk', 'sky'):
    (bin / name).write_text(f'#!/bin/sh\necho "{name} $@" >> {tmp_path}/calls\n')
    (bin / name).chmod(0o755)
  python = project / '.venv' / 'bin' / 'python'
  python.parent.mkdir(parents=True)
  python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
  python.chmod(0o755)
  env = os.environ | {'PATH': f'{bin}:{os.environ["PATH"]}'}
  for block in blocks:
    done = subprocess.run(['bash', '-euo', 'pipefail', '-c', block], cwd=project, env=env, capture_output=True, text=True)
    assert done.returncode == 0, block + done.stderr
  written = yaml.safe_load((project / 'r1.yaml').read_text())
  assert render.problems(written) == [] and 'train-{000..146}.tar' in str(_pod(written)['containers'][0]['command'])
  calls = (tmp_path / 'calls').read_text()
  assert 'xpk workload create --workload=r1' in calls and 'sky jobs launch launch/sky/sslax.yaml' in calls
  for path in re.findall(r'(?:-f|launch) (launch/\S+)', calls):
    assert (ROOT / path).is_file(), path


@pytest.mark.slow
@pytest.mark.parametrize('slice_type', ['v5litepod-16', 'v6e-8', 'v5p-16'])
def test_xpk_accepts_and_agrees(render, outcome, slice_type, tmp_path):
  """xpk's dry run takes our arguments, has the same hosts and chips, and its shell lets Python save and keeps its exit code."""
  if shutil.which('xpk') is None:
    pytest.skip('xpk is not installed')
  train = ['--', '--config=configs/simclr.py:imagenet']
  where = ['--project=p', '--zone=us-west4-a', '--dry_run', f'--type={slice_type}', '--slices=2']
  code, out, err = xpk(*XPK_FLAGS, *where, *train)
  assert code == 0, out + err
  theirs = yaml.safe_load(re.search(r'^apiVersion: jobset.*?(?=^\[XPK\])', out, re.DOTALL | re.MULTILINE)[0])
  ours = jobset(render, slice_type=slice_type)
  for where in ('parallelism', 'completions', 'backoffLimit'):
    assert _job(theirs)[where] == _job(ours)[where], where
  assert theirs['spec']['replicatedJobs'][0]['replicas'] == 2 and theirs['spec']['failurePolicy']['maxRestarts'] == 50
  for label, value in _pod(theirs)['nodeSelector'].items():
    assert _pod(ours)['nodeSelector'][label] == value
  container = _pod(theirs)['containers'][0]
  assert container['resources']['limits'] == _pod(ours)['containers'][0]['resources']['limits']
  actions = [outcome(theirs, code) for code in (42, 170, 137, 2, 3)]
  assert actions == ['RestartJobSet'] * 3 + ['FailJobSet'] * 2

  (tmp_path / 'python').write_text(
    f'#!/usr/bin/env -S "{sys.executable}"\nimport signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n'
    'print("ready", flush=True)\nsignal.pause()\n'
  )
  (tmp_path / 'python').chmod(0o755)
  env = os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
  process = subprocess.Popen(container['command'], env=env, stdout=subprocess.PIPE, text=True)
  while process.stdout.readline() != 'ready\n':
    assert process.poll() is None
  process.terminate()
  assert process.wait(60) == 42

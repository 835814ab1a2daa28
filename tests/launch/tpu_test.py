"""launch/tpu against a gcloud that keeps pods in folders: what it does, refuses, repairs, and leaves alone."""

import copy
import json
import os
import pathlib
import random
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest
from launch.pod import DATE, Box, script

from launch import fake_gcloud

RUN = ('--run_id=r1', '--workdir=/shared/r1', '--', '--config=configs/simclr.py:digits', '--config.seed=1')


CALLS = []  # of all tests: the last one hands them to gcloud's own parser


@pytest.fixture
def box(tmp_path):
  box = Box(tmp_path)
  yield box
  CALLS.extend(box.cloud.calls)
  box.close()


def watch(box, *args, type='v5e-4', **more):
  pod = ('--name=pod', '--zone=us-central1-a', f'--type={type}', '--spot', f'--python={box.python}')
  return box.tpu('watch', *pod, *args, *RUN, **more)


def test_life_of_a_pod(box):
  """create, setup, run, status, logs, kill, resume, delete: each once on two hosts, and what each refuses meanwhile."""
  create = ('create', '--name=pod', '--zone=us-central1-a', '--type=v5e-8', '--spot')
  assert 'until launch/tpu delete' in box.ok(*create)
  assert 'exists: ACTIVE' in box.ok(*create) and box.count('create') == 1
  code, output = box.tpu('create', '--name=pod', '--type=v5e-16')
  assert code == 2 and 'exists as v5litepod-8' in output
  code, output = box.tpu('run', *RUN)
  assert code == 2 and 'launch/tpu setup' in output, output
  (box.project / 'unknown.py').touch()
  output = box.ok('setup', f'--python={box.python}')
  assert 'jax 0.10.2' in output and 'unknown.py' in output
  assert 'attempt 1' in box.ok('run', *RUN)
  assert 'running r1 1 joined' in box.ok('status')
  code, output = box.tpu('run', *RUN)
  assert code == 2 and 'busy' in output
  output = box.ok('logs', '--grep=^train')
  lines = sorted(line for line in output.splitlines())
  assert [line.split()[0] for line in lines] == ['w0', 'w1'] and lines[0].endswith('--config.seed=1 --workdir=/shared/r1')
  assert all(' --num_processes=2 ' in line for line in lines)  # neither trains alone
  assert {line.split()[0] for line in box.ok('logs', '--worker=1').splitlines()} == {'w1'}
  assert 'code 42' in box.ok('kill')
  code, output = box.tpu('status')
  assert code == 42 and output.count('ended r1 1 42') == 2
  assert 'attempt 2' in box.ok('run', *RUN)  # the same name goes on
  assert 'saved' in (box.host(0) / 'runs/r1/log.before').read_text()
  assert 'pod' in box.ok('ssh', '--worker=1', '--', 'echo', 'pod $HOME')
  box.ok('delete')
  assert box.cloud.resources == {} and not list(box.cloud.folder.iterdir())
  assert 'no pod' in box.tpu('delete', '--name=pod', '--zone=us-central1-a')[1]


def test_five_preemptions(box):
  """Each is recovered, nothing is left over, and the neighbours without our label are not touched."""
  box.cloud.add('pod-2', 'ACTIVE', {})
  box.cloud.add('pod2', 'SUSPENDED', {'sslax': 'other'})
  box.plan('0')
  box.plan(*['preempt'] * 5, '0', host=0)
  code, output = watch(box, '--delete_when_done')
  assert code == 0 and 'r1 is done' in output, output
  assert re.findall(r'restart (\d) in (\d+) s', output) == [(str(i + 1), str(30 * 2**i)) for i in range(5)]
  assert box.count('create') == box.count('delete') == 6
  assert set(box.cloud.resources) == {'pod-2', 'pod2'}
  assert not [call for call in box.cloud.calls if {'pod-2', 'pod2'} & set(call)]


CODES = {  # what the hosts' processes end with, one after the other: (host 0, host 1, code of watch, how often it ran)
  'saved': (['42', '0'], ['42', '0'], 0, 2),
  'stalled': (['170', '0'], ['134', '0'], 0, 2),
  'user error beside a peer that saved': (['2'], ['42'], 2, 1),
  'crash beside a peer that saved': (['42'], ['1'], 1, 1),
  'diverged': (['3'], ['hang'], 3, 1),
}


@pytest.mark.parametrize('case', CODES)
def test_watch_by_exit_code(case, box):
  first, second, expected, runs = CODES[case]
  box.plan(*first, host=0)
  box.plan(*second, host=1)
  box.cloud.birth = ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']
  code, output = watch(box, type='v5e-8', SSLAX_PEER_SECONDS='10')
  assert code == expected, output
  assert (box.host(0) / 'runs/r1/attempt').read_text() == str(runs)
  if expected:
    assert f'w0 the last line before {first[0]}' in output
  assert 'paid for' in output and box.count('delete') == 0


def test_watch_ends_at_its_limits(box):
  box.plan(*['42'] * 9)
  code, output = watch(box, '--max_restarts=2')
  assert code == 42 and 'used up' in output and output.count('restart ') == 2, output
  box.plan('hang')
  box.plan('hang', host=0)
  code, output = watch(box, '--max_hours=1', '--delete_when_done', SSLAX_POLL='1200')
  assert code == 42 and 'are over' in output and 'ended in order, code 42' in output, output
  assert box.cloud.resources == {}


def test_watch_ends_when_the_paid_hours_are_used_up(box):
  """Hours in the queue are not paid for; those of an earlier watch are, and what it left running is stopped."""
  box.cloud.birth = ['WAITING_FOR_RESOURCES'] * 4 + ['ACTIVE']
  code, output = watch(box, '--max_paid_hours=3', '--max_hours=4', SSLAX_POLL='1200')
  assert code == 42 and 'max_hours=4 are over' in output, output
  box.ok('run', *RUN)
  code, output = watch(box, '--max_paid_hours=2', '--delete_when_done')
  assert code == 42 and 'max_paid_hours=2 are used up' in output and 'ended in order, code 42' in output, output
  assert box.cloud.resources == {}


def test_watch_outlives_what_google_does(box):
  """Creation refused once, deletion once, a predecessor that failed: all in one life."""
  box.cloud.add('pod', 'FAILED', {'sslax': 'pod'})
  box.faults({'kind': 'refuse delete', 'times': 1}, {'kind': 'refuse create', 'times': 2})
  box.plan('0')
  code, output = watch(box)
  assert code == 0 and output.count('Quota') == 2 and output.count('restart ') == 2, output


def test_a_silent_api_is_asked_again(box):
  box.make('v5e-4')
  box.faults({'kind': 'no answer', 'times': 2})
  box.ok('status', SSLAX_API_SECONDS='1')
  box.faults({'kind': 'no answer', 'times': 3})
  assert box.tpu('status', SSLAX_API_SECONDS='1')[0] == 170
  box.faults({'kind': 'no answer', 'times': 3})
  code, output = box.tpu('delete', SSLAX_API_SECONDS='1')
  assert code == 170 and 'three attempts' in output and box.count('delete') == 0, output


@pytest.mark.parametrize('command', ['delete', 'create', 'setup', 'kill', 'watch'])
def test_what_is_not_ours_is_left_alone(command, box):
  box.cloud.add('pod', 'SUSPENDED' if command in ('create', 'watch') else 'ACTIVE', {'sslax': 'another'})
  args = ('--type=v5e-8', '--spot') if command in ('create', 'watch') else ()
  code, output = box.tpu(command, '--name=pod', '--zone=us-central1-a', *args, *(RUN if command == 'watch' else ()))
  assert code == 2 and 'left alone' in output, output
  assert not [call for call in box.cloud.calls if 'describe' not in call]


def test_ssh_that_fails_twice(box):
  box.faults({'kind': 'ssh', 'host': 1, 'times': 2})
  box.make()
  box.faults({'kind': 'ssh', 'host': 0, 'times': 2})
  box.ok('run', *RUN)


def test_an_answer_that_was_lost_starts_nothing_twice(box):
  box.make()
  box.faults({'kind': 'ssh after', 'host': 1, 'word': 'run', 'times': 1})
  assert 'attempt 1' in box.ok('run', *RUN)
  assert (box.host(1) / 'runs/r1/log').read_text().count('train -u') == 1 and not (box.host(1) / 'runs/r1/log.before').exists()


def test_a_host_that_does_not_answer_is_named(box):
  box.create()
  box.faults({'kind': 'ssh', 'host': 1, 'times': 99})
  code, output = box.tpu('setup', f'--python={box.python}')
  assert code == 170 and 'w1' in output and 'w0' not in output, output
  assert 'nothing was set up' in output and box.count('scp') == 0


def test_no_host_runs_alone(box):
  box.make()
  box.faults({'kind': 'ssh after', 'host': 1, 'word': 'run', 'times': 99})
  code, output = box.tpu('run', *RUN)
  assert code == 170 and 'w1' in output and 'stopped' in output, output
  assert (box.host(0) / 'runs/r1/code').read_text() == '42'


def test_kill_by_pid(box):
  """A process that ignores SIGTERM is killed; a pid that was given out again is not."""
  box.plan('deaf')
  box.make('v5e-4')
  box.ok('run', *RUN)
  assert 'killed, code 137' in box.ok('kill', '--grace=1')
  innocent = subprocess.Popen(['sleep', '60'])
  try:
    (box.host(0) / 'runs/r1/code').unlink()
    for name in ('pid', 'supervisor'):
      (box.host(0) / 'runs/r1' / name).write_text(f'{innocent.pid} 12345')
    assert 'nothing was running' in box.ok('kill') and innocent.poll() is None
    assert box.tpu('status')[0] == 137  # neither alive nor a code
  finally:
    innocent.kill()


def test_lockfile_is_removed_only_when_nobody_holds_the_tpu(box):
  box.make('v5e-4')
  host = box.host(0).parent
  (host / 'libtpu_lockfile').touch()
  (host / 'accel0').touch()
  with open(host / 'accel0') as held:
    output = box.ok('kill')
    assert str(os.getpid()) in output and (host / 'libtpu_lockfile').exists(), (output, held)
  assert 'stale' in box.tpu('doctor')[1]
  assert 'removed' in box.ok('kill') and not (host / 'libtpu_lockfile').exists()


def test_doctor(box):
  """Well; then all that it can see at once: quota, region, libtpu, clock, firewall, versions."""
  script(box.host_bin / 'date', DATE)
  script(box.host_bin / 'df', '#!/bin/bash\necho Avail; echo 99999999\n')
  box.cloud.quotas = [
    'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI,64,us-central1-a,us-central1-a',
    'TPUV6E,8,us-central1-a,',
  ]
  box.cloud.buckets['gs://b'] = 'US-CENTRAL1'
  (box.folder / 'versions').write_text('python 3.12.3, jax 0.10.2, libtpu 0.0.42\n')
  box.create()
  assert 'hosts are not set up' in box.ok('doctor')
  box.ok('setup', f'--python={box.python}')
  output = box.ok('doctor', '--bucket=gs://b')
  assert 'quota for v5litepod: TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI=64\n' in output and 'FAIL' not in output, output
  box.cloud.quotas, box.cloud.buckets['gs://b'] = ['TPUV5sLitepod,0,us-central1-a,', 'TPUV5sLitepod,9,us-west4-a,'], 'ASIA'
  script(box.host_bin / 'date', '#!/bin/bash\necho 9\n')
  script(box.host_bin / 'timeout', '#!/bin/bash\nexit 124\n')
  (box.folder / 'versions.w1').write_text('python 3.11.2, jax 0.10.2\n')
  code, output = box.tpu('doctor', '--bucket=gs://b')
  assert code == 2 and 'FAIL  no quota for v5litepod in us-central1-a' in output and 'asia' in output
  for host, words in {'w0': (), 'w1': ('no libtpu', 'other versions')}.items():
    line = next(line for line in output.splitlines() if f'FAIL  {host}' in line)
    assert all(word in line for word in (*words, 's off', 'a firewall', '127.0.2.1')) and ('libtpu,' in line) == (host == 'w1'), (
      line
    )


def test_a_libtpu_that_jax_was_not_built_for(box, tmp_path):
  (tmp_path / 'site' / 'libtpu-0.0.1.dist-info').mkdir(parents=True)
  (tmp_path / 'site' / 'libtpu-0.0.1.dist-info' / 'METADATA').write_text('Name: libtpu\nVersion: 0.0.1\n')
  python = script(tmp_path / 'own' / 'bin' / 'python', f'#!/bin/bash\nPYTHONPATH={tmp_path}/site exec {sys.executable} "$@"\n')
  box.create('v5e-4')
  assert (
    'libtpu 0.0.1, ' in (output := box.ok('setup', f'--python={python.parents[1]}')) and 'this jax wants libtpu==0.0.' in output
  )


UV = """#!/bin/bash
echo "$*" >>"$BOX/uv"
case "$*" in
  *'pip compile'*) for word; do case "$word" in --output-file=*) echo 'jax==0.10.2' >"${word#*=}" ;; esac; done ;;
  *'uv venv'* | *' venv '*) mkdir -p "${!#}/bin" && cp PYTHON "${!#}/bin/python" ;;
  *'pip install'*) if rm "$BOX/pip fails" 2>/dev/null; then exit 1; fi ;;
esac
"""


def test_environment_is_whole_or_absent(box):
  """Resolved once; a half-built one is built again, a whole one is not; after a preemption the same versions come back."""
  uv = UV.replace('PYTHON', str(box.python / 'bin' / 'python'))
  install = f'mkdir -p "$HOME/sslax/uv/bin"; cp "{script(box.folder / "fake uv", uv)}" "$HOME/sslax/uv/bin/uv"'
  script(box.host_bin / 'python3', f'#!/bin/bash\n{install}\n')
  box.create()
  (box.folder / 'pip fails').touch()
  code, output = box.tpu('setup')
  assert code == 1 and 'lock file' in output, output
  box.ok('setup')
  done = (box.folder / 'uv').read_text()
  assert done.count('compile') == 1 and done.count(' venv ') == 3, done
  next((box.host(0) / 'venv').glob('*/.sslax')).unlink()
  box.ok('setup')
  done = (box.folder / 'uv').read_text()
  assert done.count('compile') == 1 and done.count(' venv ') == 4, done
  assert len(list((box.host(0) / 'venv').iterdir())) == 1


def test_different_versions_are_refused(box):
  (box.folder / 'versions.w1').write_text('python 3.12.3, jax 0.10.3\n')
  box.create()
  code, output = box.tpu('setup', f'--python={box.python}')
  assert code == 2 and 'w0: python 3.12.3, jax 0.10.2' in output and 'w1: python 3.12.3, jax 0.10.3' in output, output


def test_secrets_are_in_no_command_and_no_log(box):
  secret = box.folder / 'secrets'
  secret.write_text('WANDB_API_KEY=canary-5f1a\n')
  box.create()
  setup = ('setup', f'--python={box.python}', f'--secrets={secret}')
  code, output = box.tpu(*setup)
  assert code == 2 and 'chmod 600' in output
  secret.chmod(0o600)
  box.ok(*setup)
  box.ok('run', *RUN)
  pid = (box.host(1) / 'runs/r1/pid').read_text().split()[0]
  assert b'WANDB_API_KEY=canary-5f1a' in pathlib.Path(f'/proc/{pid}/environ').read_bytes()
  assert b'canary' not in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
  box.ok('kill')
  kept = box.host(1) / 'secrets.env'
  assert kept.stat().st_mode & 0o777 == 0o600
  found = subprocess.run(['grep', '-rl', 'canary-5f1a', box.folder], capture_output=True, text=True).stdout.split()
  assert {pathlib.Path(path).name for path in found} == {'secrets', 'secrets.env'}, found
  secret.unlink()
  assert box.tpu(*setup)[0] == 2


def test_buckets(box):
  """One in another region is refused; gcsfuse shows the others as folders."""
  box.make('v5e-4')
  box.cloud.buckets['gs://b'] = 'EUROPE-WEST4'
  run = ('run', '--run_id=r1', '--workdir=gs://b/r1')
  code, output = box.tpu(*run, *RUN[2:])
  assert code == 2 and 'europe-west4' in output and 'us-central1' in output, output
  assert not any('worker.sh run' in call[-1] for call in box.cloud.calls), 'refused after it was started'
  code, output = box.tpu(*run, '--allow_cross_region', *RUN[2:])
  assert code == 2 and 'gcsfuse' in output, output
  script(box.host_bin / 'gcsfuse', '#!/bin/bash\necho "$2" >"$3/mounted"\n')
  box.cloud.buckets['gs://b'] = 'US'
  box.ok(*run, *RUN[2:])
  assert (box.host(0) / 'buckets/b/mounted').read_text() == 'b\n'
  assert (box.host(0) / 'runs/r1/log').read_text().splitlines()[0].endswith(f'--workdir={box.host(0)}/buckets/b/r1')


def test_dry_run_prints_what_runs(box):
  """Byte for byte, in the same order, and changes nothing; looks are taken."""
  steps = [
    ('create', '--name=pod', '--zone=us-central1-a', '--type=v5e-4', '--spot'),
    ('setup', f'--python={box.python}'),
    ('run', *RUN),
    ('kill',),
    ('delete',),
  ]
  for step in steps:
    before, log = copy.deepcopy(box.cloud.resources), box.home / 'tpu' / 'pod' / 'commands.log'
    cut = step.index('--') if '--' in step else len(step)
    command = [box.project / 'launch' / 'tpu', *step[:cut], '--dry_run', *step[cut:]]
    process = subprocess.run(command, env=box.environment(), capture_output=True, text=True)
    assert process.returncode == 0 and box.cloud.resources == before, process
    length = len(log.read_text()) if log.exists() else 0
    box.ok(*step)
    ran = log.read_text()[length:].splitlines()
    asked = ('describe', 'worker.sh\\ status')
    where = re.compile(r'/tmp/tmp\.\w+/')  # a folder of its own for each call
    expected = [where.sub('', line) for line in ran if not any(word in line for word in asked)]
    assert [where.sub('', line) for line in process.stdout.splitlines()] == expected


TYPOS = {
  'command': (['stauts'], 'status'),
  'flag': (['create', '--zoen=us-central1-a'], '--zone'),
  'switch': (['create', '--spto'], '--spot'),
  'single word': (['create', 'zone=x'], '--zone'),
  'type': (['create', '--name=a', '--zone=z', '--type=v5elite-16', '--spot'], 'v5e'),
  'name': (['create', '--name=A_b', '--zone=z'], 'lower-case'),
  'no value': (['create', '--name'], '--name='),
  'capacity': (['create', '--name=a', '--zone=z', '--type=v5e-16', '--spot', '--reserved'], '--spot --reserved'),
  'preset': (['run', '--name=a', '--zone=z', '--run_id=r', '--workdir=/x', '--env=v6', '--', '--config=c'], 'v6e'),
  'place': (['run', '--name=a', '--zone=z', '--run_id=r', '--workdir=runs/x', '--', '--config=c'], 'gs://'),
  'no config': (['run', '--name=a', '--zone=z', '--run_id=r', '--workdir=/x'], '-- --config'),
  'duration': (['create', '--name=a', '--zone=z', '--type=v5e-16', '--spot', '--timeout=6'], '6h'),
}


def test_typos(tmp_path):
  """Exit 2 with what was meant, within a second each, before gcloud is asked anything."""
  box = Box(tmp_path)
  for case, (args, hint) in TYPOS.items():
    started = time.process_time() + sum(os.times()[2:4])
    code, output = box.tpu(*args)
    took = time.process_time() + sum(os.times()[2:4]) - started
    assert code == 2 and hint in output and took < 1, (case, took, output)
  assert box.cloud.calls == []


def test_two_slices_through_a_tunnel(box):
  tunnel = ('--tunnel_through_iap', '--internal_ip')
  box.create('v5e-4', '--slices=2', '--project=p', *tunnel, '--service_account=a@p', '--timeout=6h')
  box.ok('setup', f'--python={box.python}')
  box.ok('run', '--env=v5e,multislice', *RUN)
  assert len(box.ok('logs', '--grep=^train').splitlines()) == 2
  assert box.ok('logs', '--worker=s1w0', '--grep=^train').startswith('s1w0 ')
  assert 's0w0: running r1 1' in box.tpu('status')[1]
  pid = box.cloud.host(0, 'pod-1') / 'sslax/runs/r1/pid'
  environ = pathlib.Path(f'/proc/{pid.read_text().split()[0]}/environ').read_text()
  assert 'fuse_all_gather' in environ and 'abort_on_hang' in environ
  assert 'pod-1/w0' in box.ok('ssh', '--worker=s1w0', '--', 'pwd')
  assert 'alpha' in box.cloud.calls[-1]


ORACLE = """if True:
  import io, json, sys
  sys.path.insert(0, sys.argv[1])
  lines, formats = json.load(sys.stdin)
  sys.argv = ['gcloud']
  import gcloud
  from googlecloudsdk import gcloud_main
  from googlecloudsdk.core.resource import resource_printer
  cli = gcloud_main.CreateCLI([])
  codes = []
  for line in lines:
    print('@next', file=sys.stderr, flush=True)
    try:
      cli.Execute(line)
      codes.append(0)
    except SystemExit as stop:
      codes.append(stop.code)
  printed = []
  for resource, text in formats:
    out = io.StringIO()
    resource_printer.Print([resource], text, out=out)
    printed.append(out.getvalue().strip())
  print(json.dumps([codes, printed]))
"""


def test_gcloud_accepts_every_line(box, tmp_path):
  """gcloud's own parser, without an account: it ends with 2 at a wrong flag, and asks for an account at a right one."""
  real = shutil.which('gcloud')
  if not real:
    pytest.skip('no gcloud: https://cloud.google.com/sdk/docs/install')
  box.make('v5e-4')
  box.cloud.buckets['gs://b'] = 'US-CENTRAL1'
  box.tpu('doctor', '--bucket=gs://b', '--type=v5litepod-4')
  box.tpu('ssh')
  lines = {' '.join(re.sub(r'(=|/).*', '', word) for word in call): call for call in [*CALLS, *box.cloud.calls]}
  lines = [call for call in lines.values() if call[0] != 'version']
  wrong = ['compute', 'tpus', 'queued-resources', 'create', 'pod', '--zone=z', '--noed-id=pod']
  resource = {
    'state': {'state': 'ACTIVE'},
    'tpu': {'nodeSpec': [{'node': {'labels': {'sslax': 'pod'}, 'acceleratorType': 'v5p-8'}}]},
  }
  node = {'state': 'READY', 'networkEndpoints': [{'ipAddress': '127.0.0.1'}, {'ipAddress': '127.0.0.2'}]}
  bare = {'state': {'state': 'FAILED'}, 'tpu': {'nodeSpec': [{'node': {}}]}}
  places = {'details': {'value': '64'}, 'dimensions': {'zone': 'a'}, 'applicableLocations': ['a', 'b']}
  quota = {'quotaId': 'TPUV6E', 'dimensionsInfos': places}  # as --flatten leaves it
  formats = [(resource, fake_gcloud.RESOURCE), (node, fake_gcloud.NODE), (bare, fake_gcloud.RESOURCE), (quota, fake_gcloud.QUOTA)]
  library = pathlib.Path(real).resolve().parents[1] / 'lib'
  env = {**os.environ, 'CLOUDSDK_CONFIG': str(tmp_path / 'cloudsdk'), 'CLOUDSDK_CORE_PROJECT': 'p'}
  asked = json.dumps([[*lines, wrong], formats])
  done = subprocess.run(['python3', '-c', ORACLE, library], input=asked, capture_output=True, text=True, env=env)
  assert done.returncode == 0, done.stderr[-2000:]
  codes, printed = json.loads(done.stdout.splitlines()[-1])
  said = done.stderr.split('@next\n')[1:]
  assert printed == ['ACTIVE,pod,v5p-8', 'READY,127.0.0.1;127.0.0.2', 'FAILED,,', 'TPUV6E,64,a,a;b']
  assert codes.pop() == 2 and '--node-id' in said.pop(), 'the parser is no oracle'
  for line, code, text in zip(lines, codes, said, strict=True):
    assert code != 2 and ('active account' in text or line[0] == 'config'), f'gcloud {shlex.join(line)}: {text}'


@pytest.mark.slow
def test_no_silent_partial_run(box):
  """Fifty setups and runs with random ssh faults: all hosts run, or the code says so and what runs on is named."""
  box.make()
  outcomes = {0: 0, 170: 0}
  for seed in range(50):
    draw = random.Random(seed)
    kinds = [
      {'kind': 'ssh', 'host': draw.randrange(2), 'times': draw.choice((1, 2, 2, 9))},
      {
        'kind': 'ssh after',
        'host': draw.randrange(2),
        'word': draw.choice(('run', 'setup', 'status')),
        'times': draw.choice((1, 2, 9)),
      },
      {'kind': 'scp', 'times': draw.choice((1, 2, 9))},
    ]
    box.faults(*draw.sample(kinds, draw.randint(1, 2)))
    code, output = box.tpu(*(('setup', f'--python={box.python}') if seed % 2 else ('run', *RUN)))
    outcomes[code] += 1  # no other code
    running = {f'w{i}' for i in range(2) if 'running' in status_of(box, i)}
    if seed % 2 == 0 and code == 0:
      assert running == {'w0', 'w1'}, (seed, output)
    elif seed % 2 == 0:
      assert all(host in output for host in running), (seed, output)
    if code:
      assert re.search(r'\bw[01]\b|pod', output), (seed, output)
    box.faults()
    box.ok('kill')
  assert min(outcomes.values()) >= 10, outcomes


def status_of(box, number):
  env = box.cloud.environment('pod', number, {'hosts': 2})
  line = 'bash sslax/current/launch/lib/worker.sh status'
  return subprocess.run(['bash', '-c', line], env=env, cwd=env['HOME'], capture_output=True, text=True).stdout

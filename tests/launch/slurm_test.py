"""launch/slurm/sslax.sbatch on a real SLURM of one machine, with four slurmd that call themselves n1 to n4."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from run.trainer import ROOT, TINY, environment, lines, status, train

SCRIPT = ROOT / 'launch' / 'slurm' / 'sslax.sbatch'
DAEMONS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'unshare')
PATH = f'{os.environ["PATH"]}:/usr/sbin:/sbin'
needs_slurm = pytest.mark.skipif(
  os.geteuid() != 0 or any(shutil.which(name, path=PATH) is None for name in DAEMONS),
  reason='no SLURM: as root, apt-get install slurmctld slurmd slurm-client munge',
)
CONF = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={dir}/munge/socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=10
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool/%n
SlurmctldPidFile={dir}/ctld.pid
SlurmdPidFile={dir}/%n.pid
SlurmctldLogFile={dir}/ctld.log
SlurmdLogFile={dir}/%n.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
NodeName=n[1-4] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=n[1-4] Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""

# Stands for the trainer: `python -m sslax.train WHAT`. It stops like the trainer where WHAT is `run`, else it ends with a code.
STUB = """#!/usr/bin/env -S "{python}"
import os, signal, sys, time
what, process = sys.argv[3], int(os.environ['SLURM_PROCID'])
restarts = int(os.environ.get('SLURM_RESTART_COUNT', 0))
def stop(number, _frame):
  time.sleep(1)  # saves
  print(f'process {{process}} asked by {{signal.Signals(number).name}}', flush=True)
  sys.exit(42)
for number in (signal.SIGUSR1, signal.SIGTERM):
  signal.signal(number, stop)
print(f'process {{process}} started, restart {{restarts}}', flush=True)
if what == 'limit' and restarts:
  sys.exit(0)
if what.startswith('codes=') and not (restarts and what.endswith('once')):
  code = int(what.removeprefix('codes=').removesuffix('once').split(',')[process])
  if code < 0:
    os.kill(os.getpid(), -code)
  sys.exit(code)
if what.endswith('once'):
  sys.exit(0)
time.sleep(240)
"""


class Slurm:
  """The daemons, and what a user types."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.daemons = folder, []
    host = subprocess.run(['hostname', '-s'], capture_output=True, text=True).stdout.strip()
    port = 20000 + os.getpid() % 20000
    for name in ('state', 'spool', 'munge'):
      (folder / name).mkdir()
    folder.chmod(0o755)
    conf = CONF.format(dir=folder, host=host, port=port, first=port + 1, last=port + 4)
    (folder / 'slurm.conf').write_text(conf)
    (folder / 'hosts').write_text('127.0.0.1 localhost n1 n2 n3 n4 ' + host + '\n')
    self.env = {**environment(), 'SLURM_CONF': str(folder / 'slurm.conf'), 'PATH': PATH}
    munge = folder / 'munge'
    key = munge / 'key'
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    self.start(
      'munged', '--foreground', '--force', f'--socket={munge}/socket', f'--key-file={key}', f'--log-file={munge}/log',
      f'--pid-file={munge}/pid', f'--seed-file={munge}/seed', '--origin=127.0.0.1',
    )  # fmt: skip
    self.wait(lambda: (munge / 'socket').exists(), 'munged')
    self.start('slurmctld', '-D', '-c')
    for i in range(1, 5):  # jax asks for the address of node n1 by its name: a private /etc/hosts knows it
      mount = f'mount --bind {folder}/hosts /etc/hosts && exec slurmd -D -N n{i}'
      self.start('unshare', '-m', 'sh', '-c', mount)
    self.wait(lambda: self('sinfo', '-h', '-o', '%D %t') == '4 idle', 'nodes')

  def start(self, *command):
    log = (self.folder / f'{len(self.daemons)}.out').open('w')
    self.daemons.append(subprocess.Popen(command, env=self.env, stdout=log, stderr=subprocess.STDOUT))

  def __call__(self, *command):
    done = subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else f'{command}: {done.stderr}'

  def wait(self, condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
      logs = '\n'.join(f'--- {p.name}\n{p.read_text()[-1500:]}' for p in self.folder.glob('*.out') if p.read_text())
      assert time.monotonic() < deadline, f'{what} after {seconds} s\n{logs}'
      time.sleep(0.2)

  def submit(self, *args, options=(), python=None):
    """The number of the job."""
    env = f'ALL,SSLAX_PYTHON={python or self.folder / "stub"}'
    return self(
      'sbatch', '--parsable', '--nodes=2', f'--chdir={ROOT}', f'--export={env}', f'--output={self.folder}/job-%j',
      *options, str(SCRIPT), *args,
    )  # fmt: skip

  def output(self, job):
    path = self.folder / f'job-{job}'
    return path.read_text() if path.exists() else ''

  def field(self, job, name):
    words = self('scontrol', 'show', 'job', job).split()
    return next((word.partition('=')[2] for word in words if word.startswith(f'{name}=')), '')

  def ended(self, job, seconds=240):
    self.wait(
      lambda: self.field(job, 'JobState') in ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL'),
      lambda: f'job {job}: {self.field(job, "JobState")}\n{self.output(job)}',
      seconds,
    )
    return self.field(job, 'JobState'), self.field(job, 'ExitCode'), int(self.field(job, 'Restarts'))

  def close(self):
    self('scancel', '--user=root')
    for daemon in reversed(self.daemons):
      daemon.send_signal(signal.SIGTERM)
    for daemon in reversed(self.daemons):
      try:
        daemon.wait(15)
      except subprocess.TimeoutExpired:
        daemon.kill()


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
  folder = tmp_path_factory.mktemp('slurm')
  stub = folder / 'stub'
  stub.write_text(STUB.format(python=sys.executable))
  stub.chmod(0o755)
  slurm = None
  try:
    slurm = Slurm(folder)
    yield slurm
  finally:
    if slurm:
      slurm.close()


def test_the_script_is_strict_and_clean():
  text = SCRIPT.read_text(encoding='utf-8')
  assert text.startswith('#!/usr/bin/env bash\n') and 'set -euo pipefail' in text and '#SBATCH --signal=B:USR1@' in text
  assert subprocess.run(['bash', '-n', str(SCRIPT)]).returncode == 0
  if shutil.which('shellcheck'):
    done = subprocess.run(['shellcheck', '--severity=style', str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@needs_slurm
@pytest.mark.slow
@pytest.mark.parametrize('codes, verdict', [('0,0', 0), ('42,2', 2), ('42,1', 1), ('1,42', 1), ('170,3', 3), ('7,170', 7)])
def test_a_crashed_process_is_not_hidden(slurm, codes, verdict):
  job = slurm.submit(f'codes={codes}')
  state, code, restarts = slurm.ended(job)
  assert (state, code, restarts) == ('FAILED' if verdict else 'COMPLETED', f'{verdict}:0', 0), slurm.output(job)


@needs_slurm
@pytest.mark.slow
@pytest.mark.parametrize('codes', ['170,-9', '-6,0'])
def test_a_lost_process_is_started_again(slurm, codes):
  job = slurm.submit(f'codes={codes}once')
  assert slurm.ended(job) == ('COMPLETED', '0:0', 1), slurm.output(job)
  assert 'a process was lost or stalled: requeued' in slurm.output(job)


@needs_slurm
@pytest.mark.slow
def test_scancel_stays_cancelled(slurm):
  job = slurm.submit('run')
  slurm.wait(lambda: slurm.output(job).count('started') == 2, 'start')
  slurm('scancel', job)
  state, _, restarts = slurm.ended(job)
  time.sleep(3)
  assert (slurm.field(job, 'JobState'), restarts) == ('CANCELLED', 0), slurm.output(job)
  assert slurm.output(job).count('asked by SIGTERM') == 2 and 'requeued' not in slurm.output(job), slurm.output(job)


@needs_slurm
@pytest.mark.slow
def test_the_time_limit_saves_and_requeues(slurm):
  job = slurm.submit('limit', options=('--time=2', '--signal=B:USR1@100'))
  slurm.wait(lambda: 'requeued' in slurm.output(job), 'requeue', 150)
  assert slurm.output(job).count('asked by SIGUSR1') == 2
  slurm('scontrol', 'release', job)
  assert slurm.ended(job) == ('COMPLETED', '0:0', 1), slurm.output(job)


@needs_slurm
@pytest.mark.slow
def test_the_real_trainer_goes_on_after_the_time_limit(slurm, tmp_path):
  code, output = train(tmp_path / 'whole', '--config.num_steps=300', devices=2)
  assert code == 0, output
  flags = (f'--config={TINY}', f'--workdir={tmp_path / "job"}', '--config.num_steps=300', '--config.checkpoint.every_steps=50')
  job = slurm.submit(*flags, python=sys.executable, options=('--time=10',))
  slurm.wait(lambda: (tmp_path / 'job' / 'metrics.jsonl').exists() and len(lines(tmp_path / 'job')) > 20, 'steps', 240)
  slurm('scancel', '--batch', '--signal=USR1', job)  # what SLURM does before the limit, without the wait for it
  assert slurm.ended(job, 400) == ('COMPLETED', '0:0', 1), slurm.output(job)
  assert 'resuming at step' in slurm.output(job) and 'SLURM job' in slurm.output(job)
  assert status(tmp_path / 'job')['step'] == 300
  assert [line['step'] for line in lines(tmp_path / 'job')] == list(range(1, 301))
  ours, theirs = (json.dumps(lines(tmp_path / name)[0]) for name in ('job', 'whole'))
  assert json.loads(ours)['loss'] == pytest.approx(json.loads(theirs)['loss'], rel=1e-5)

"""Who the other processes are: flags, variables, SLURM, Open MPI, TPU pods, and nobody."""

import os
import subprocess
import sys

import pytest
from launch.fake_gcloud import free_port
from launch.fake_metadata import Metadata
from run.trainer import ROOT, environment, run

from sslax.errors import UserError
from sslax.run import cluster
from sslax.run.cluster import Cluster, detect

# What srun 22.05 sets in a task, as a job on one machine with four slurmd printed it.
SLURM = {
  'SLURM_JOB_ID': '7', 'SLURM_STEP_NODELIST': 'n[1-2]', 'SLURM_STEP_NUM_NODES': '2', 'SLURM_STEP_NUM_TASKS': '2',
  'SLURM_NTASKS': '2', 'SLURM_PROCID': '1', 'SLURM_LOCALID': '0',
}  # fmt: skip
OPEN_MPI_4 = {
  'OMPI_COMM_WORLD_SIZE': '4', 'OMPI_COMM_WORLD_RANK': '3', 'OMPI_COMM_WORLD_LOCAL_RANK': '1', 'OMPI_COMM_WORLD_LOCAL_SIZE': '2',
  'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911',
}  # fmt: skip


def without(env, *names):
  return {key: value for key, value in env.items() if key not in names}


def test_nothing_is_one_process():
  assert detect({}) is None


def test_flags_come_before_variables_and_those_before_a_scheduler():
  env = {'SSLAX_COORDINATOR': 'a:1', 'SSLAX_NUM_PROCESSES': '3', 'SSLAX_PROCESS_ID': '2'}
  assert detect(env) == Cluster('a:1', 3, 2, None, 0, 'the flags')
  assert detect(env, coordinator='b:2', count=4, index=0) == Cluster('b:2', 4, 0, None, 0, 'the flags')
  found = detect({**SLURM, **env})
  assert (found.coordinator, found.count, found.index) == ('a:1', 3, 2)
  assert detect({**SLURM, **env}, count=1) is None


@pytest.mark.parametrize(
  'env, words',
  [
    ({'SSLAX_NUM_PROCESSES': '2'}, ('--coordinator', '--process_id')),
    ({'SSLAX_COORDINATOR': 'a:1'}, ('--num_processes', '--process_id')),
    ({'SSLAX_NUM_PROCESSES': 'two'}, ("SSLAX_NUM_PROCESSES='two'",)),
    ({'SSLAX_COORDINATOR': 'a', 'SSLAX_NUM_PROCESSES': '2', 'SSLAX_PROCESS_ID': '0'}, ('HOST:PORT',)),
    ({'SSLAX_COORDINATOR': 'a:1', 'SSLAX_NUM_PROCESSES': '2', 'SSLAX_PROCESS_ID': '2'}, ('0 ... 1',)),
  ],
)
def test_what_is_missing_or_wrong_is_named(env, words):
  with pytest.raises(UserError) as error:
    detect(env)
  assert all(word in str(error.value) for word in words), error.value


def test_slurm():
  assert detect(SLURM) == Cluster('n1:61447', 2, 1, None, 2, 'SLURM job 7')
  for nodes, first in {'n1': 'n1', 'n1,x2': 'n1', 'gpu[008-015],x': 'gpu008', 'r-1-[3,5]': 'r-1-3', 'a.b,c': 'a.b'}.items():
    assert detect({**SLURM, 'SLURM_STEP_NODELIST': nodes}).coordinator == f'{first}:61447'


def test_a_device_each_only_where_processes_share_a_machine_and_see_all_of_its_devices():
  two_a_node = {**SLURM, 'SLURM_STEP_NUM_TASKS': '4', 'SLURM_LOCALID': '1'}
  assert detect(two_a_node).devices == (1,)
  assert detect({**two_a_node, 'CUDA_VISIBLE_DEVICES': '0,1'}).devices == (1,)
  assert detect({**two_a_node, 'CUDA_VISIBLE_DEVICES': '1'}).devices is None
  assert detect(SLURM).devices is None, 'one process a machine takes all of its devices'


def test_parts_of_slurm_are_one_process(capsys):
  """A batch script, ssh to a node of a job, an interactive step: some of the variables, and nobody else comes."""
  assert detect(without(SLURM, 'SLURM_STEP_NODELIST', 'SLURM_STEP_NUM_TASKS', 'SLURM_STEP_NUM_NODES')) is None
  assert 'srun did not start this' in capsys.readouterr().err
  assert detect(without(SLURM, 'SLURM_PROCID')) is None
  assert detect(without(SLURM, 'SLURM_NTASKS', 'SLURM_STEP_NUM_TASKS')) is None
  assert detect({**SLURM, 'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '1'}) is None


def test_open_mpi():
  assert detect(OPEN_MPI_4) == Cluster('10.96.0.1:62624', 4, 3, (1,), 0, 'Open MPI')
  five = without(OPEN_MPI_4, 'OMPI_MCA_orte_hnp_uri')
  with pytest.raises(UserError, match='Open MPI: --coordinator missing'):
    detect(five)
  assert detect(five, coordinator='h:5').index == 3


def test_agrees_with_jax_where_both_know():
  from jax._src.clusters import OmpiCluster, SlurmCluster

  for env, theirs in ((SLURM, SlurmCluster), (OPEN_MPI_4, OmpiCluster)):
    before = dict(os.environ)
    try:
      os.environ.update(env)
      known = theirs.get_coordinator_address(1, None), theirs.get_process_count(), theirs.get_process_id()
    finally:
      os.environ.clear()
      os.environ.update(before)
    found = detect(env)
    assert (found.coordinator, found.count, found.index) == known


def test_a_tpu_pod_is_asked_for_only_where_there_may_be_one():
  assert not cluster._maybe_tpu_pod({'TPU_SKIP_MDS_QUERY': '1'})
  assert cluster._maybe_tpu_pod({})
  assert cluster._maybe_tpu_pod({'TPU_WORKER_HOSTNAMES': 'a,b', 'TPU_SKIP_MDS_QUERY': '1'})
  assert not cluster._maybe_tpu_pod({'TPU_PROCESS_ADDRESSES': 'local'}), 'Kaggle'
  assert cluster._maybe_tpu_pod({'TPU_WORKER_HOSTNAMES': 'a', 'MEGASCALE_NUM_SLICES': '2'})


def test_tpu_pod_without_requests_or_metadata_or_others(monkeypatch, capsys):
  for error in (ValueError('coordinator_address should be defined.'), ConnectionError('no route')):
    monkeypatch.setattr(cluster.jax.distributed, 'initialize', _raises(error))
    cluster._join_tpu_pod({}, 0)
  assert 'no metadata server' in capsys.readouterr().err
  for error, raised in ((ValueError(), UserError), (ConnectionError('no route'), cluster.PeerLost)):
    monkeypatch.setattr(cluster.jax.distributed, 'initialize', _raises(error))
    with pytest.raises(raised, match='4 processes'):  # none of four trains alone
      cluster._join_tpu_pod({}, 4)
  monkeypatch.setattr(cluster.jax.distributed, 'initialize', _raises(ModuleNotFoundError('no', name='requests')))
  with pytest.raises(UserError, match='pip install requests'):
    cluster._join_tpu_pod({}, 0)


def _raises(error):
  def initialize(**_):
    raise error

  return initialize


def test_a_loopback_coordinator_is_doubted():
  assert cluster._is_loopback('localhost') and cluster._is_loopback('127.0.1.1')
  assert not cluster._is_loopback('10.0.0.1') and not cluster._is_loopback('no-such-host.invalid')


def test_the_flags_reach_it():
  code, output = run('train', '--config=configs/simclr.py:digits', '--workdir=none', '--dry_run', '--num_processes=2')
  assert code == 2 and '--coordinator and --process_id missing' in output, output


# Joins, shows that it did, and leaves in order.
JOIN = (
  'from sslax.run import cluster; cluster.join(); import jax; print(jax.process_count(), flush=True); jax.distributed.shutdown()'
)


def joined(*pair, **env):
  pair = [
    subprocess.Popen(
      [sys.executable, '-c', JOIN], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      env=environment(**host, **env),
    ) for host in pair
  ]  # fmt: skip
  try:
    outputs = [p.communicate(timeout=120)[0] for p in pair]
  finally:
    for p in pair:
      p.kill()
  assert all(p.returncode == 0 and '\n2\n' in output for p, output in zip(pair, outputs, strict=True)), outputs
  return outputs


# A port where nobody listens: requests and gRPC would ask it for any host.
PROXY = {'http_proxy': 'http://127.0.0.1:9', 'https_proxy': 'http://127.0.0.1:9'}


@pytest.mark.slow
def test_two_join_whatever_proxy_the_environment_names():
  said = {'SSLAX_COORDINATOR': f'127.0.0.1:{free_port()}', 'SSLAX_NUM_PROCESSES': '2'}
  joined(*({**said, 'SSLAX_PROCESS_ID': str(i)} for i in range(2)), **PROXY)


@pytest.mark.slow
def test_two_hosts_of_a_tpu_pod_join(tmp_path, monkeypatch):
  """Nobody tells them of each other: jax asks the metadata server of each, by way of no proxy."""
  monkeypatch.delenv('TPU_SKIP_MDS_QUERY', raising=False)  # jax has set it in this process
  hosts, port = [Metadata(['127.0.0.1'] * 2, i) for i in range(2)], free_port()
  try:
    joined(*(host.environment(tmp_path, port) for host in hosts), **PROXY)
  finally:
    for host in hosts:
      host.close()
  assert all({'agent-worker-number', 'worker-network-endpoints'} <= set(host.asked) for host in hosts)


def test_the_hosts_of_two_slices_are_numbered_by_slice(monkeypatch):
  from jax._src.clusters import GceTpuCluster

  server = Metadata(['10.0.1.1', '10.0.1.2'], 1, slice=(1, 2, '10.0.0.1'), old=False)
  monkeypatch.setenv('GCE_METADATA_IP', f'127.0.0.1:{server.server.server_port}')
  try:
    assert (GceTpuCluster.get_process_count(), GceTpuCluster.get_process_id()) == (4, 3)
    assert GceTpuCluster.get_coordinator_address(1, None) == '10.0.0.1:8482', 'the port of which launch/tpu doctor asks'
  finally:
    server.close()

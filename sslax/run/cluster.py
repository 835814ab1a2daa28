"""Which processes belong to a run, and joining them: asked for by flags or variables, or found in SLURM, Open MPI, TPU pods."""

import dataclasses
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Mapping
from typing import Any

import jax

from sslax.errors import UserError

HEARTBEAT = 15  # seconds without a sign of life before a process is taken for dead; jax's default of 100 is a long time for a pod
JOIN = 300  # seconds to wait for the others at the start
SHUTDOWN = 60  # seconds to wait for the others at the end: they may still be closing their files
HOW = 'Give all of --coordinator=HOST:PORT, --num_processes and --process_id, or --num_processes=1 for a run of its own'


class PeerLost(Exception):
  """Another process of this run is gone, or did not come: exit code 170."""


@dataclasses.dataclass(frozen=True)
class Cluster:
  """What jax.distributed needs to know."""

  coordinator: str  # host:port of process 0
  count: int
  index: int
  devices: tuple[int, ...] | None  # of this machine, where it is shared by several processes; None: all
  hosts: int  # machines; 0: unknown
  name: str  # who said so


def detect(environ: Mapping[str, str], *, coordinator: str = '', count: int = 0, index: int = -1) -> Cluster | None:
  """The processes of this run; None: this one alone. What is given comes before SSLAX_* and those before what a scheduler says.

  Args:
    environ: the environment.
    coordinator: host:port of process 0; '': not given.
    count: of processes; 0: not given.
    index: of this process; -1: not given.

  Raises:
    UserError: something is missing, or no number, or out of range.
  """
  coordinator = coordinator or environ.get('SSLAX_COORDINATOR', '')
  count = count or _number(environ, 'SSLAX_NUM_PROCESSES', 0)
  index = index if index >= 0 else _number(environ, 'SSLAX_PROCESS_ID', -1)
  if count == 1:  # said so: whatever the scheduler thinks
    return None
  given = bool(coordinator or count or index >= 0)
  found = _open_mpi(environ) or _slurm(environ)
  if found is None and not given:
    return None
  found = found or Cluster('', 0, -1, None, 0, 'the flags')
  found = dataclasses.replace(
    found,
    coordinator=coordinator or found.coordinator,
    count=count or found.count,
    index=index if index >= 0 else found.index,
  )
  flags = {'--coordinator': found.coordinator, '--num_processes': found.count, '--process_id': found.index >= 0}
  if missing := [flag for flag, value in flags.items() if not value]:
    raise UserError(f'several processes by {found.name}: {" and ".join(missing)} missing. {HOW}')
  if not re.fullmatch(r'.+:\d+', found.coordinator):
    raise UserError(f'--coordinator={found.coordinator} is not HOST:PORT')
  if not 0 <= found.index < found.count:
    raise UserError(f'--process_id={found.index} is not in 0 ... {found.count - 1} (--num_processes={found.count})')
  return found


def _open_mpi(environ: Mapping[str, str]) -> Cluster | None:
  """mpirun. Up to Open MPI 4 it says where it runs itself, and rank 0 is there; since 5 it does not."""
  count = _number(environ, 'OMPI_COMM_WORLD_SIZE', 1)
  if count == 1:
    return None
  uri = re.match(r'(\d+)\..*?(?:tcp://([^,:]+)|tcp6://\[([^],]+))', environ.get('OMPI_MCA_orte_hnp_uri', ''))
  coordinator = f'{uri[2] or f"[{uri[3]}]"}:{_port(int(uri[1]) // 2**12)}' if uri else ''
  index, local = (_number(environ, f'OMPI_COMM_WORLD_{name}', -1) for name in ('RANK', 'LOCAL_RANK'))
  shared = _number(environ, 'OMPI_COMM_WORLD_LOCAL_SIZE', 1) > 1
  return Cluster(coordinator, count, index, _devices(environ, local, shared), 0, 'Open MPI')


def _slurm(environ: Mapping[str, str]) -> Cluster | None:
  """srun. A batch script, or a shell on a node of a job, has some of the variables (jax#30073): there, this process is alone."""
  job, nodes = environ.get('SLURM_JOB_ID', ''), environ.get('SLURM_STEP_NODELIST', '')
  count = _number(environ, 'SLURM_STEP_NUM_TASKS', 1)  # SLURM_NTASKS is what the job asked for, in an interactive shell, too
  if not (job and nodes and 'SLURM_PROCID' in environ) or count == 1:
    if job and _number(environ, 'SLURM_NTASKS', 1) > 1:
      print(f'SLURM job {job} has {environ["SLURM_NTASKS"]} tasks, but srun did not start this: one process', file=sys.stderr)
    return None
  first = re.match(r'([^,\[]+)(?:\[(\w+))?', nodes)  # node001,x1 or node[001-004,7]
  hosts, local = _number(environ, 'SLURM_STEP_NUM_NODES', 1), _number(environ, 'SLURM_LOCALID', 0)
  return Cluster(
    f'{first[1] + (first[2] or "") if first else nodes}:{_port(_number(environ, "SLURM_JOB_ID", 0))}',
    count,
    _number(environ, 'SLURM_PROCID', -1),
    _devices(environ, local, shared=count > hosts),
    hosts,
    f'SLURM job {job}',
  )


def _devices(environ: Mapping[str, str], local: int, shared: bool) -> tuple[int, ...] | None:
  """One device for each of several processes of a machine, unless the scheduler shows each its own already."""
  alone = ',' not in environ.get('CUDA_VISIBLE_DEVICES', ',')
  return (local,) if shared and local >= 0 and not alone else None


def _port(job: int) -> int:
  return 65536 - 2**12 + job % 2**12  # in the ephemeral range, and the same for all processes of a job


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
  try:
    return int(environ.get(name) or default)
  except ValueError:
    raise UserError(f'{name}={environ[name]!r} is no whole number') from None


def join(*, coordinator: str = '', count: int = 0, index: int = -1) -> None:
  """Joins the processes of this run, if there are others. Must run before anything asks jax for devices.

  Args:
    coordinator: as in `detect`.
    count: as in `detect`. The hosts of a TPU pod need nothing else; without it, one that does not find the others is alone.
    index: as in `detect`.

  Raises:
    UserError: what `detect` raises, or this is a TPU pod and a package is missing.
    PeerLost: the others did not come, or were not found.
  """
  pod = count != 1 and not coordinator and index < 0 and _maybe_tpu_pod(os.environ)
  cluster = detect(os.environ, coordinator=coordinator, count=0 if pod else count, index=index)
  limits = dict(initialization_timeout=JOIN, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=SHUTDOWN)
  if cluster is None:
    if pod:
      _join_tpu_pod(limits, count)
    return
  host = cluster.coordinator.rpartition(':')[0].strip('[]')
  print(f'process {cluster.index} of {cluster.count} ({cluster.name}), coordinator {cluster.coordinator}', flush=True)
  if cluster.hosts > 1 and cluster.index and _is_loopback(host):
    print(
      f'warning: here {host} is this machine itself (a loopback address), and {cluster.name} spans {cluster.hosts} machines: '
      f'unless process 0 runs here, too, correct /etc/hosts or give --coordinator=ADDRESS:PORT',
      file=sys.stderr,
    )
  _initialize(
    coordinator_address=cluster.coordinator,
    num_processes=cluster.count,
    process_id=cluster.index,
    local_device_ids=cluster.devices,
    cluster_detection_method='deactivate',
    **limits,
  )


def _initialize(**arguments: Any) -> None:
  # gRPC and requests would ask the HTTP proxy even for the other hosts and for a pod's metadata server.
  proxies = {name: os.environ.pop(name) for name in [*os.environ] if name.lower().endswith('_proxy')}
  try:
    jax.distributed.initialize(**arguments)
  except jax.errors.JaxRuntimeError as error:
    raise PeerLost(f'the other processes did not come within {JOIN} s: {" ".join(str(error).split())[:300]}') from error
  finally:
    os.environ.update(proxies)


def _is_loopback(host: str) -> bool:
  try:
    return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
  except OSError:
    return False


def _maybe_tpu_pod(environ: Mapping[str, str]) -> bool:
  """GKE names the hosts in a variable; on other TPU machines only Google's metadata server knows."""
  hosts = environ.get('TPU_PROCESS_ADDRESSES') or environ.get('TPU_WORKER_HOSTNAMES')
  if hosts:
    return ',' in hosts or _number(environ, 'MEGASCALE_NUM_SLICES', 1) > 1
  return 'TPU_SKIP_MDS_QUERY' not in environ  # jax sets it on import where there is no TPU


def _join_tpu_pod(limits: dict[str, int], count: int) -> None:
  """Joins the hosts that jax finds; where it finds none, this one is alone, or has failed where there are others."""
  try:
    _initialize(**limits)
  except ModuleNotFoundError as error:
    raise UserError(f'a TPU pod is found by way of the package {error.name}: pip install {error.name}') from None
  except ValueError:  # jax found no cluster: a TPU machine by itself
    if count:
      raise UserError(f'this is one of {count} processes, but jax finds no TPU pod (is jax[tpu] installed?). {HOW}') from None
  except OSError as error:  # what requests raises: no metadata server, as on Colab
    if count:
      raise PeerLost(f'no answer from the metadata server, which knows the others of {count} processes: {error}'[:300]) from error
    print(f'no metadata server ({type(error).__name__}): one process', file=sys.stderr)

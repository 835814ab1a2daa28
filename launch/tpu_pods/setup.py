"""Code and environment on every host, the same on all of them."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import tempfile
import threading
import time

from . import codes, gcloud, snapshot
from .errors import say
from .hosts import ATTEMPTS, Fleet, Host, parse, verb
from .options import checked_for_setup
from .pod import Pod, need_active

PROJECT = pathlib.Path(__file__).resolve().parents[2]
AT_ONCE = 8  # hosts that are met


def setup(pod: Pod) -> int:
  """The command."""
  pod = dataclasses.replace(pod, options=checked_for_setup(pod.options))
  fleet = Fleet(pod, need_active(pod))
  pod.memory.keep(pod.options)
  return setup_pod(fleet)


def setup_pod(fleet: Fleet) -> int:
  """The caller knows that the pod is ACTIVE. 0: every host has the same, and it is written down."""
  with tempfile.TemporaryDirectory(prefix='tmp.') as folder:
    code = snapshot.pack(PROJECT, pathlib.Path(folder))
    fleet.pod.memory.write(f'code/{code.name}.diff', code.diff)
    say(f'setting up {len(fleet)} host(s): code {code.name}, {-(-code.tarball.stat().st_size // 1024)} KiB')
    return _meet(fleet) or _send_code(fleet, code) or _send_secrets(fleet) or _make_environments(fleet, code.name)


def _meet(fleet: Fleet) -> int:
  """Tells each host its name: the first alone, for gcloud makes and publishes the ssh key then; the rest eight at a time."""
  hosts = fleet.hosts()
  met: set[Host] = set()

  def meet(some: list[Host]) -> None:
    met.update(host for host in some if _meet_host(fleet, host))

  meet(hosts[:1])
  groups = 1 if fleet.pod.dry_run else AT_ONCE
  # Daemons: whoever stops this program does not wait for them.
  threads = [threading.Thread(target=meet, args=(hosts[1 + i :: groups],), daemon=True) for i in range(groups)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  silent = [host.name for host in hosts if host not in met]
  if silent:
    say(f'no answer by ssh from {" ".join(silent)}; nothing was set up. launch/tpu doctor looks for the cause')
  return codes.LOST if silent else codes.DONE


def _meet_host(fleet: Fleet, host: Host) -> bool:
  command = f'mkdir -p sslax && echo {host.name} >sslax/worker && echo @sslax {host.name} 0 hello'
  for attempt in range(1, ATTEMPTS + 1):
    output = fleet.pod.commands.change(fleet.ssh(host.node, host.number, command), fleet.pod.seconds.ssh)
    if output.code not in (codes.SSH_FAILED, codes.TOO_SLOW):
      break
    if attempt < ATTEMPTS:
      time.sleep(attempt)
  answer = parse(output.out).get(host.name)
  return fleet.pod.dry_run or answer is not None and answer.code == 0


def _send(fleet: Fleet, source: pathlib.Path, place: str) -> int:
  """A file to every host."""
  for node in fleet.nodes:
    words = gcloud.scp(fleet.pod.options, source, node.name, place)
    for attempt in range(1, ATTEMPTS + 1):
      output = fleet.pod.commands.change(words, fleet.pod.seconds.setup)
      if output.code == 0:
        break
      if attempt < ATTEMPTS:
        time.sleep(attempt)
    else:
      say(f'{place} could not be sent to {node.name}: {output.last_words}')
      return codes.LOST
  return codes.DONE


def _send_code(fleet: Fleet, code: snapshot.Snapshot) -> int:
  sent = _send(fleet, code.tarball, f'sslax/code-{code.name}.tar.gz')
  if sent:
    return sent
  # Unpacked aside and renamed: a folder with this name is whole.
  unpack = f'mkdir -p code code.new; tar -xzf code-{code.name}.tar.gz -C code.new; mv -T code.new code/{code.name}'
  command = (
    f'set -e; cd sslax; if [ ! -d code/{code.name} ]; then rm -rf code.new; {unpack}; fi; '
    f'rm -f code-{code.name}.tar.gz; echo @sslax $(cat worker) 0 unpacked'
  )
  return fleet.change(command, fleet.pod.seconds.ssh).code('unpacking the code')


def _send_secrets(fleet: Fleet) -> int:
  """By scp into a file that nobody else can read: never on a command line."""
  secrets = fleet.pod.options.secrets
  if not secrets:
    return codes.DONE
  command = 'install -m 600 /dev/null sslax/secrets.env && echo @sslax $(cat sslax/worker) 0 ready'
  made = fleet.change(command, fleet.pod.seconds.ssh).code('secrets')
  return made or _send(fleet, pathlib.Path(secrets), 'sslax/secrets.env')


def _make_environments(fleet: Fleet, code: str) -> int:
  pod, python = fleet.pod, fleet.pod.options.python
  if python.startswith('/'):  # one that is there already
    environment = hashlib.sha256(python.encode('utf-8', 'surrogateescape')).hexdigest()[:12]
  else:
    wanted = (PROJECT / 'requirements.txt').read_bytes() + f'{pod.options.extras} {python}'.encode()
    environment = hashlib.sha256(wanted).hexdigest()[:12]
    failed = _resolve(fleet, code, f'lock-{environment}.txt')
    failed = failed or _send(fleet, pod.memory.path(f'lock-{environment}.txt'), f'sslax/lock-{environment}.txt')
    if failed:
      return failed
  answers = fleet.change(verb(f'code/{code}', 'setup', code, environment, python), pod.seconds.setup)
  if pod.dry_run:
    return codes.DONE
  failed = answers.code('setting up')
  if failed:
    return failed
  versions = {answer.text for answer in answers.said.values()}
  if len(versions) > 1:
    say('the hosts have different versions, which cannot work together:')
    for host, answer in answers.sorted():
      say(f'  {host}: {answer.text}')
    return codes.USER_ERROR
  pod.memory.write('setup', f'{code}\n')
  say(f'set up: {versions.pop()}')
  return codes.DONE


def _resolve(fleet: Fleet, code: str, lock: str) -> int:
  """Versions of all packages, on one host, once: all hosts, and those that come after a preemption, get the same."""
  pod = fleet.pod
  if pod.memory.text(lock):
    return codes.DONE
  command = verb(f'code/{code}', 'lock', code, f'jax[{pod.options.extras}]', pod.options.python)
  output = pod.commands.change(fleet.ssh(fleet.nodes[0].name, 0, command), pod.seconds.setup)
  if pod.dry_run:
    return codes.DONE
  found = [line[len('@lock ') :] for line in output.out.splitlines() if line.startswith('@lock ')]
  if output.code == 0 and found:
    pod.memory.write(lock, '\n'.join(found) + '\n')
    return codes.DONE
  say('the versions could not be resolved:')
  say('\n'.join(output.err.splitlines()[-20:]))
  return codes.LOST if output.code else codes.REFUSED

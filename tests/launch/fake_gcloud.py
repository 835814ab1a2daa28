#!/usr/bin/env -S python3 -IS
"""A gcloud with pods of its own: queued resources and nodes in a JSON file, their hosts as folders of this machine.

`ssh` runs the command in each host's folder as its home, in processes of this machine, so that launch/lib/worker.sh and what it starts are the
real ones. $FAKE_GCLOUD is the folder that holds it all: state.json, calls.jsonl (every call), pods/NODE/wN (the homes). A preemption kills
what runs in them and removes them.
"""

import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

FOLDER = pathlib.Path(os.environ['FAKE_GCLOUD'])
HOSTS = {'v5litepod-4': 1, 'v5litepod-8': 2, 'v5litepod-16': 4, 'v5p-8': 1}
NAME_OF_LABEL = 'sslax'

# The answers to the formats that launch/tpu asks for, as gcloud prints them (tests/launch/tpu_test.py asks gcloud's own printer).
FORMATS = {
  'csv[no-heading](state.state,tpu.nodeSpec[0].node.labels.sslax,tpu.nodeSpec[0].node.acceleratorType)': lambda r: ','.join(
    (r['state'], r['labels'].get(NAME_OF_LABEL, ''), r['type'])
  ),
  'csv[no-heading](state,networkEndpoints[].ipAddress)': lambda n: (
    n['state'] + ',' + ';'.join(f'127.0.0.{i + 1}' for i in range(n['hosts']))
  ),
  'value(location)': lambda b: b['location'],
  'value(type)': lambda names: '\n'.join(names),
}


class State:
  """The JSON file, for one process at a time."""

  def __enter__(self):
    FOLDER.mkdir(exist_ok=True)
    self.lock = open(FOLDER / 'lock', 'w')
    fcntl.flock(self.lock, fcntl.LOCK_EX)
    path = FOLDER / 'state.json'
    self.values = json.loads(path.read_text()) if path.exists() else {}
    for key, value in (('clock', 0), ('resources', {}), ('buckets', {}), ('faults', []), ('birth', ['ACTIVE'])):
      self.values.setdefault(key, value)
    return self.values

  def __exit__(self, *_):
    (FOLDER / 'state.json').write_text(json.dumps(self.values, indent=1))
    self.lock.close()


def fault(state, kind, **where):
  """True when a fault of this kind is due here; each entry {kind, times, ...} strikes so often."""
  for entry in state['faults']:
    if entry['kind'] == kind and entry['times'] > 0 and all(entry.get(k, v) == v for k, v in where.items()):
      entry['times'] -= 1
      return entry
  return None


def end(message, code=1):
  print(f'ERROR: (gcloud) {message}', file=sys.stderr)
  sys.exit(code)


def flags_of(words):
  """(positional arguments, {flag: value or True})."""
  names, flags = [], {}
  for word in words:
    if word.startswith('--'):
      name, _, value = word[2:].partition('=')
      flags[name] = value if '=' in word else True
    else:
      names.append(word)
  return names, flags


def node_names(name, flags):
  if 'node-id' in flags:
    return [flags['node-id']]
  return [f'{flags["node-prefix"]}-{i}' for i in range(int(flags['node-count']))]


def create(state, name, flags):
  if name in state['resources']:
    end(f'ALREADY_EXISTS: {name}')
  if fault(state, 'refuse create'):
    end("RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has been exceeded.")
  labels = dict(pair.split('=') for pair in flags.get('labels', '').split(',') if pair)
  nodes = {n: {'state': 'READY', 'hosts': HOSTS[flags['accelerator-type']]} for n in node_names(name, flags)}
  state['resources'][name] = dict(
    state=state['birth'][0], later=state['birth'][1:], labels=labels, type=flags['accelerator-type'], nodes=nodes
  )


def describe_resource(state, name, flags):
  if fault(state, 'no answer'):
    time.sleep(60)
  if name not in state['resources']:
    end(f"NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/{name}' was not found")
  resource = state['resources'][name]
  answer = FORMATS[flags['format']](resource)
  if resource['later']:  # a look later it has gone on
    resource['state'] = resource['later'].pop(0)
  print(answer)


def find_node(state, name):
  for resource in state['resources'].values():
    if name in resource['nodes'] and resource['state'] == 'ACTIVE':
      return resource['nodes'][name]
  return end(f"NOT_FOUND: Resource 'projects/p/locations/z/nodes/{name}' was not found")


def home(node, host):
  return FOLDER / 'pods' / node / f'w{host}'


def stop_hosts(node):
  """What a preemption does to the processes and the disks of a node's hosts."""
  for pids in (FOLDER / 'pods' / node).glob('w*/sslax/runs/*'):
    for name in ('supervisor', 'pid'):
      try:
        pid = int((pids / name).read_text().split()[0])
        (os.killpg if name == 'supervisor' else os.kill)(pid, signal.SIGKILL)
      except (OSError, ValueError, IndexError):
        pass
  shutil.rmtree(FOLDER / 'pods' / node, ignore_errors=True)


def preempt(state, name):
  resource = state['resources'][name]
  resource['state'] = 'SUSPENDED'
  for node in resource['nodes']:
    stop_hosts(node)
    resource['nodes'][node]['state'] = 'PREEMPTED'


def delete(state, name, flags):
  if name not in state['resources']:
    end(f'NOT_FOUND: {name} was not found')
  if fault(state, 'refuse delete'):
    end('INTERNAL: try again')
  for node in state['resources'].pop(name)['nodes']:
    stop_hosts(node)


def which_hosts(node, flags):
  worker = flags.get('worker', '0')
  return range(node['hosts']) if worker == 'all' else [int(worker)]


def environment(state, name, host, node):
  """What a host knows: little of this machine, and what a TPU VM's metadata say (here: the addresses of jax.distributed)."""
  path = home(name, host)
  path.mkdir(parents=True, exist_ok=True)
  env = {'HOME': str(path), 'PATH': state.get('path', '/usr/bin:/bin'), 'LANG': 'C.UTF-8', 'FAKE_GCLOUD': str(FOLDER), 'FAKE_HOST': f'{name}/w{host}'}
  port = state.setdefault('ports', {}).setdefault(name, free_port())
  if state.get('join') and node['hosts'] > 1:
    env |= {'SSLAX_COORDINATOR': f'127.0.0.1:{port}', 'SSLAX_NUM_PROCESSES': str(node['hosts']), 'SSLAX_PROCESS_ID': str(host)}
  return env | {'SSLAX_TPU_LOCKFILE': str(path / 'libtpu_lockfile'), 'SSLAX_TPU_DEVICE': str(path / 'accel*')} | state.get('env', {})


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def ssh(name, flags):
  with State() as state:
    node = find_node(state, name)
    command = flags['command']
    runs = []
    for host in which_hosts(node, flags):
      entry = fault(state, 'ssh', host=host) or (fault(state, 'ssh after', host=host, word=_verb(command)))
      if entry and entry['kind'] == 'ssh':
        runs.append((host, None, entry))
      else:
        runs.append((host, environment(state, name, host, node), entry))
  code, processes = 0, []
  for host, env, entry in runs:
    if env is None:
      code = 255
      continue
    # The answer is lost after the command has run: what a retry meets.
    out = subprocess.DEVNULL if entry else None
    processes.append((subprocess.Popen(['bash', '-c', command], env=env, cwd=env['HOME'], stdin=subprocess.DEVNULL, stdout=out), entry))
  for process, entry in processes:
    code = process.wait() or code
    if entry:
      code = 255
  sys.exit(code)


def _verb(command):
  words = command.split()
  return words[words.index('bash') + 2] if 'bash' in words else words[0]


def scp(name, source, place, flags):
  with State() as state:
    node = find_node(state, name)
    failed = fault(state, 'scp')
    for host in which_hosts(node, flags):
      if failed:
        end('scp: Connection closed', 255)
      target = home(name, host) / place
      target.parent.mkdir(parents=True, exist_ok=True)
      mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
      shutil.copyfile(source, target)  # as scp: what is there keeps its mode
      target.chmod(mode)


def main(argv):
  if argv[:2] == ['fake', 'preempt']:
    with State() as state:
      return preempt(state, argv[2])
  with open(FOLDER / 'calls.jsonl', 'a') as calls:
    calls.write(json.dumps(argv) + '\n')
  words = argv[1:] if argv[0] == 'alpha' else argv
  names, flags = flags_of(words)
  kind = ' '.join(names[:4])
  if kind.startswith('compute tpus tpu-vm ssh'):
    return ssh(names[4], flags)
  if kind.startswith('compute tpus tpu-vm scp'):
    name, _, place = names[5].partition(':')
    return scp(name, names[4], place, flags)
  with State() as state:
    if kind == 'compute tpus queued-resources create':
      create(state, names[4], flags)
    elif kind == 'compute tpus queued-resources describe':
      describe_resource(state, names[4], flags)
    elif kind == 'compute tpus queued-resources delete':
      delete(state, names[4], flags)
    elif kind == 'compute tpus tpu-vm describe':
      print(FORMATS[flags['format']](find_node(state, names[4])))
    elif kind == 'compute tpus accelerator-types list':
      print(FORMATS[flags['format']](sorted(HOSTS)))
    elif kind == 'storage buckets describe gs://b':
      print(FORMATS[flags['format']](state['buckets']['gs://b']))
    elif names[:2] == ['storage', 'buckets']:
      end(f'{names[3]} not found: 404. NOT_FOUND')
    elif names[:3] == ['config', 'get-value', 'account']:
      print('user@example.com')
    elif names[:3] == ['config', 'get-value', 'project']:
      print('p')
    elif names == ['version']:
      print('528.0.0')
    else:
      end(f'the fake knows no {argv}', 2)


if __name__ == '__main__':
  main(sys.argv[1:])

"""A gcloud with pods of its own: a table of queued resources and nodes, and hosts that are folders of this machine.

The `gcloud` on the PATH is a few lines of bash that hand their arguments to a server in this process: a call takes 10 ms. `ssh`
runs the command with a host's folder as its home, so that launch/lib/worker.sh and what it starts are the real ones. A preemption
kills what runs there, by its recorded pid, and removes the folder.
"""

import os
import pathlib
import shutil
import signal
import socket
import socketserver
import subprocess
import threading

from launch.fake_metadata import Metadata

HOSTS = {'v5litepod-4': 1, 'v5litepod-8': 2, 'v5litepod-16': 4, 'v5p-8': 1}

CLIENT = """#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/"$FAKE_GCLOUD"
printf '%s\\0' "$#" "$@" >&3
while IFS= read -r line <&3; do
  case "$line" in
    1*) printf '%s\\n' "${line:1}" ;;
    2*) printf '%s\\n' "${line:1}" >&2 ;;
    3*) exit "${line:1}" ;;
  esac
done
exit 255
"""

# The formats that launch/tpu asks for; tpu_test.py compares the answers with those of gcloud's own printer.
RESOURCE = 'csv[no-heading](state.state,tpu.nodeSpec[0].node.labels.sslax,tpu.nodeSpec[0].node.acceleratorType)'
NODE = 'csv[no-heading](state,networkEndpoints[].ipAddress)'
QUOTA = (
  'csv[no-heading](quotaId,dimensionsInfos.details.value,dimensionsInfos.dimensions.zone,dimensionsInfos.applicableLocations)'
)


class Refused(Exception):
  """What gcloud says before it exits with 1 (or another code)."""

  def __init__(self, message, code=1):
    super().__init__(message)
    self.code = code


class Cloud:
  """Attributes:
  resources: {name: {state, later, labels, type, nodes: {node: {state, hosts}}}}; `later`: the states that the next looks find.
  faults: [{kind, times, ...}]: `refuse create`, `refuse delete`, `no answer`, `scp`, `ssh` (host), and `ssh after` (host, word):
    the command whose line has the word is run, and its answer lost.
  birth: the states of a new resource.
  env: what hosts have in their environment; join: they are taken for those of a TPU pod.
  """

  def __init__(self, folder):
    self.folder = folder
    self.resources, self.faults, self.buckets, self.calls, self.env = {}, [], {}, [], {}
    self.birth, self.join, self.path = ['ACTIVE'], False, '/usr/bin:/bin'
    self.quotas = []  # lines of QUOTA
    self.lock, self.sessions = threading.Lock(), []  # (node, process) of each ssh
    cloud = self

    class Handler(socketserver.StreamRequestHandler):
      def handle(self):
        cloud.serve(self.rfile, self.wfile, self.connection)

    class Server(socketserver.ThreadingTCPServer):
      allow_reuse_address = daemon_threads = True

    self.server = Server(('127.0.0.1', 0), Handler)
    self.port = self.server.server_address[1]
    threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()

  def close(self):
    for name in list(self.resources):
      self.delete(name)
    self.server.shutdown()
    self.server.server_close()

  def serve(self, reader, writer, connection):
    words, data = [], b''
    while not words or len(words) <= int(words[0]):
      data += connection.recv(65536)
      words = data.decode().split('\0')[:-1]
    argv = words[1:]
    turn = threading.Lock()

    def say(kind, text):
      with turn:
        writer.write(''.join(f'{kind}{line}\n' for line in str(text).splitlines()).encode())

    try:
      if argv[0] != 'fake':
        self.calls.append(argv)
      code = self.call(argv, say, connection)
    except Refused as refused:
      say(2, f'ERROR: (gcloud) {refused}')
      code = refused.code
    try:
      say(3, code or 0)
    except OSError:  # the caller was killed
      pass

  def call(self, argv, say, connection):
    words = [w for w in argv if not w.startswith('--')]
    flags = dict(w[2:].split('=', 1) if '=' in w else (w[2:], True) for w in argv if w.startswith('--'))
    words = words[1:] if words[0] in ('alpha', 'beta') else words
    match words:
      case ['fake', 'preempt', name]:
        self.preempt(name)
      case ['compute', 'tpus', 'tpu-vm', 'ssh', node]:
        return self.ssh(node, flags, say, connection)
      case ['compute', 'tpus', 'tpu-vm', 'scp', source, target]:
        self.scp(source, *target.split(':'), flags)
      case ['compute', 'tpus', 'queued-resources', 'create', name]:
        self.create(name, flags)
      case ['compute', 'tpus', 'queued-resources', 'delete', name]:
        if self.fault('refuse delete'):
          raise Refused('INTERNAL: try again')
        self.need(self.resources, name)
        self.delete(name)
      case ['compute', 'tpus', 'queued-resources', 'describe', name] if flags['format'] == RESOURCE:
        if self.fault('no answer'):
          connection.recv(1)  # until the caller gives up
        with self.lock:
          r = self.need(self.resources, name)
          say(1, f'{r["state"]},{r["labels"].get("sslax", "")},{r["type"]}')
          if r['later']:
            r['state'] = r['later'].pop(0)
      case ['compute', 'tpus', 'tpu-vm', 'describe', name] if flags['format'] == NODE:
        node = self.node(name)
        say(1, node['state'] + ',' + ';'.join(f'127.0.2.{i + 1}' for i in range(node['hosts'])))
      case ['compute', 'tpus', 'accelerator-types', 'list']:
        say(1, '\n'.join(HOSTS))
      case ['storage', 'buckets', 'describe', bucket]:
        say(1, self.need(self.buckets, bucket))
      case ['quotas', 'info', 'list'] if flags['format'] == QUOTA:
        say(1, '\n'.join(self.quotas))
      case ['config', 'get-value', what]:
        say(1, {'account': 'user@example.com', 'project': 'p'}[what])
      case ['version']:
        say(1, '528.0.0')
      case _:
        raise Refused(f'the fake knows no {argv}', 2)

  def need(self, table, name):
    if name not in table:
      raise Refused(f"NOT_FOUND: Resource '{name}' was not found")
    return table[name]

  def fault(self, kind, **where):
    """True when a fault of this kind is due here, which is counted."""
    with self.lock:
      for entry in self.faults:
        if entry['kind'] == kind and entry['times'] > 0 and all(entry[k] == v for k, v in where.items() if k in entry):
          if 'word' not in entry or entry['word'] in where['line'].split():
            entry['times'] -= 1
            return True
    return False

  def create(self, name, flags):
    if name in self.resources:
      raise Refused(f'ALREADY_EXISTS: {name}')
    if self.fault('refuse create'):
      raise Refused("RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has been exceeded.")
    names = [flags['node-id']] if 'node-id' in flags else [f'{flags["node-prefix"]}-{i}' for i in range(int(flags['node-count']))]
    labels = dict(pair.split('=') for pair in flags['labels'].split(','))
    self.add(name, self.birth[0], labels, flags['accelerator-type'], names, self.birth[1:])

  def add(self, name, state, labels, type='v5litepod-4', nodes=(), later=()):
    nodes, hosts, port = nodes or [name], ['127.0.0.1'] * HOSTS[type], free_port()
    nodes = {
      node: {
        'state': 'READY',
        'hosts': len(hosts),
        'port': port,
        'metadata': [Metadata(hosts, i, (slice, len(nodes), hosts[0])) for i in range(len(hosts))] if self.join else [],
      }
      for slice, node in enumerate(nodes)
    }
    self.resources[name] = dict(state=state, later=list(later), labels=labels, type=type, nodes=nodes)

  def node(self, name):
    for resource in list(self.resources.values()):
      if name in resource['nodes'] and resource['state'] == 'ACTIVE':
        return resource['nodes'][name]
    raise Refused(f"NOT_FOUND: Resource '{name}' was not found")

  def host(self, number, node='pod'):
    """The home of a host."""
    return self.folder / node / f'w{number}'

  def preempt(self, name):
    resource = self.resources[name]
    resource['state'] = 'SUSPENDED'
    for node, values in resource['nodes'].items():
      values['state'] = 'PREEMPTED'
      self.stop(node)

  def delete(self, name):
    for node, values in self.resources.pop(name)['nodes'].items():
      self.stop(node)
      for metadata in values['metadata']:
        metadata.close()

  def stop(self, node):
    for path in (self.folder / node).glob('w*/sslax/runs/*/supervisor'):
      try:  # the supervisor leads the session; not when a test wrote another's pid there
        if os.getsid(pid := int(path.read_text().split()[0])) == pid:
          os.killpg(pid, signal.SIGKILL)
      except (OSError, ValueError, IndexError):
        pass
    for of, process in self.sessions:
      if of == node and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    shutil.rmtree(self.folder / node, ignore_errors=True)

  def environment(self, name, number, node):
    """What a host knows: little of this machine, and what a TPU VM's metadata say."""
    home = self.host(number, name)
    home.mkdir(parents=True, exist_ok=True)
    env = {'HOME': str(home), 'PATH': self.path, 'LANG': 'C.UTF-8', 'FAKE_GCLOUD': str(self.port), 'HOST': f'w{number}'}
    env |= {'SSLAX_TPU_LOCKFILE': str(home / 'libtpu_lockfile'), 'SSLAX_TPU_DEVICE': str(home / 'accel*')}
    if self.join:
      env |= node['metadata'][number].environment(self.folder.parent / 'chips', node['port'])
    return env | self.env

  def which(self, node, flags):
    return range(node['hosts']) if flags.get('worker', '0') == 'all' else [int(flags.get('worker', '0'))]

  def ssh(self, name, flags, say, connection):
    node, line, code, started = self.node(name), flags.get('command', 'true'), 0, []
    for number in self.which(node, flags):
      if self.fault('ssh', host=number, line=line):
        code = 255
        continue
      lost = self.fault('ssh after', host=number, line=line)
      process = subprocess.Popen(
        ['bash', '-c', line], env=self.environment(name, number, node), cwd=self.host(number, name),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
      )  # fmt: skip
      started.append((process, lost))
      self.sessions.append((name, process))

    def forward(process, pipe, kind, lost):
      try:
        for text in pipe:
          if not lost:
            say(kind, text.rstrip('\n') or ' ')
      except OSError:  # the caller is gone: so is its ssh
        os.killpg(process.pid, signal.SIGHUP)

    threads = [
      threading.Thread(target=forward, args=(process, pipe, kind, lost), daemon=True)
      for process, lost in started
      for kind, pipe in ((1, process.stdout), (2, process.stderr))
    ]
    for thread in threads:
      thread.start()
    for process, lost in started:
      code = process.wait() or code
      code = 255 if lost or code < 0 else code
    for thread in threads:
      thread.join(5)
    return code

  def scp(self, source, name, place, flags):
    node = self.node(name)
    if self.fault('scp'):
      raise Refused('scp: Connection closed', 255)
    for number in self.which(node, flags):
      target = self.host(number, name) / place
      mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(source, target)  # as scp does: a file that is there keeps its mode
      target.chmod(mode)


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def install(folder: pathlib.Path):
  """The client as folder/gcloud."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'gcloud').write_text(CLIENT)
  (folder / 'gcloud').chmod(0o755)

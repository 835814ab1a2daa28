"""The Colab notebook: in step with its source, stripped, its helpers; executed by papermill, which tests/requirements.txt has."""

import ast
import fnmatch
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import pytest
from run import trainer

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / 'launch' / 'colab' / 'sslax.ipynb'


def code_cells():
  cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
  return [(cell['metadata'].get('tags', []), ''.join(cell['source'])) for cell in cells if cell['cell_type'] == 'code']


def test_the_notebook_is_what_its_source_says():
  path = NOTEBOOK.with_name('build.py')
  spec = importlib.util.spec_from_file_location('build_notebook', path)
  build = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(build)
  assert NOTEBOOK.read_text(encoding='utf-8') == build.text(), 'run: python launch/colab/build.py'


def test_outputs_are_stripped():
  notebook = json.loads(NOTEBOOK.read_text(encoding='utf-8'))
  assert (notebook['nbformat'], len({cell['id'] for cell in notebook['cells']})) == (4, len(notebook['cells']))
  code = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
  assert len(code) >= 8
  assert all(cell['outputs'] == [] and cell['execution_count'] is None for cell in code)


def test_every_code_cell_is_python_without_magics():
  for _, source in code_cells():
    ast.parse(source)


def test_parameters():
  (source,) = (source for tags, source in code_cells() if 'parameters' in tags)
  values = {}
  exec(source, values)
  assert (values['METHOD'], values['PRESET'], values['STEPS']) == ('simclr', 'digits', 0)
  assert {'DATASET', 'WORKDIR', 'SAVE_EVERY', 'OVERRIDES', 'PROBES', 'REPO'} <= values.keys()
  assert (ROOT / 'configs' / f'{values["METHOD"]}.py').is_file()


@pytest.fixture
def helpers(monkeypatch):
  """The functions of the install cell, and nothing of what it does."""
  if importlib.util.find_spec('IPython') is None:
    display = types.ModuleType('IPython.display')
    display.HTML = display.Image = display.display = None
    monkeypatch.setitem(sys.modules, 'IPython', types.ModuleType('IPython'))
    monkeypatch.setitem(sys.modules, 'IPython.display', display)
  (source,) = (source for _, source in code_cells() if 'def missing_packages' in source)
  tree = ast.parse(source)
  tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)]
  names = {'METHOD': 'simclr'}
  exec(compile(tree, str(NOTEBOOK), 'exec'), names)
  return names


def test_run_shows_output_and_refuses_other_codes(helpers, capsys):
  assert helpers['run'](sys.executable, '-c', 'import sys; print("ä", sys.stderr.isatty()); sys.exit(42)', ok=(0, 42)) == (
    42,
    False,
  )
  assert capsys.readouterr().out == 'ä True\n'
  with pytest.raises(RuntimeError, match='exit code 3'):
    helpers['run'](sys.executable, '-c', 'import sys; sys.exit(3)')


def test_an_interrupt_lets_the_program_save_first(helpers, capsys):
  """Two interrupts are one SIGTERM: a second one would end a training at once."""
  program = (
    'import signal, sys, time\n'
    'count = 0\n'
    'def stop(*_):\n  global count; count += 1\n'
    'signal.signal(signal.SIGTERM, stop)\n'
    'print("ready", flush=True)\n'
    'while not count: time.sleep(0.01)\n'
    'time.sleep(0.6); print("saved", count); sys.exit(42)'
  )
  real, seen = os.read, threading.Event()

  def read(*args):
    part = real(*args)
    seen.set()
    return part

  def press():
    seen.wait(20)
    for _ in range(2):
      time.sleep(0.2)
      os.kill(os.getpid(), signal.SIGINT)

  helpers['os'].read = read
  former = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may have it ignored
  try:
    thread = threading.Thread(target=press)
    thread.start()
    assert helpers['run'](sys.executable, '-c', program, ok=(0, 42)) == (42, True)
    thread.join()
  finally:
    os.read = real
    signal.signal(signal.SIGINT, former)
  assert 'saved 1' in capsys.readouterr().out


@pytest.mark.parametrize(
  'versions, accelerator, expected',
  [
    ({'jax': '0.10.2', 'jaxlib': '0.10.2', 'numpy': '2.1'}, 'cpu', []),
    ({'jax': '0.11.0', 'libtpu': '0.0.50', 'numpy': '2.1'}, 'tpu', []),
    ({'jax': '0.11.0', 'jax-cuda12-plugin': '0.11', 'numpy': '1.9'}, 'gpu', ['numpy>=2.0']),
    ({'jax': '0.11.0', 'jaxlib': '0.11.0', 'numpy': '2.1'}, 'tpu', ['jax[tpu]==0.11.0']),  # the same version, with eyes
    ({'jax': '0.7.2', 'libtpu': '0.0.20'}, 'tpu', ['jax[tpu]>=0.10.2', 'numpy>=2.0']),
    ({'numpy': '2.1'}, 'gpu', ['jax[cuda13]>=0.10.2']),
  ],
)
def test_jax_is_installed_only_with_need(helpers, tmp_path, versions, accelerator, expected):
  requirements = tmp_path / 'requirements.txt'
  requirements.write_text('# lower bounds\njax>=0.10.2\nnumpy>=2.0\npytest>=9.0\n')
  helpers['installed'] = lambda name: versions.get(name, '')
  assert helpers['missing_packages'](requirements, accelerator) == expected


@pytest.mark.parametrize(
  'devices, vendor, nvidia, expected',
  [
    ([], '0x8086', False, 'cpu'),
    (['/dev/accel0'], '0x8086', False, 'tpu'),
    (['/dev/vfio/0'], '0x1ae0', False, 'tpu'),
    (['/dev/vfio/0'], '0x10de', False, 'cpu'),  # a host of virtual machines
    (['/dev/vfio/0'], '0x1ae0', True, 'gpu'),  # Google's network card beside it
  ],
)
def test_the_accelerator_is_what_the_machine_has(helpers, tmp_path, devices, vendor, nvidia, expected):
  (tmp_path / '0000:00:04.0').mkdir()
  (tmp_path / '0000:00:04.0' / 'vendor').write_text(vendor + '\n')
  helpers['pathlib'] = types.SimpleNamespace(Path=lambda _: tmp_path)
  helpers['glob'] = types.SimpleNamespace(glob=lambda pattern: [d for d in devices if fnmatch.fnmatch(d, pattern)])
  helpers['shutil'] = types.SimpleNamespace(which=lambda _: 'true' if nvidia else None)
  helpers['subprocess'] = types.SimpleNamespace(run=lambda *_, **__: types.SimpleNamespace(returncode=0))
  assert helpers['find_accelerator']() == expected


def test_the_project_is_found_around_and_below(helpers, tmp_path, monkeypatch):
  monkeypatch.setattr(helpers['importlib'].util, 'find_spec', lambda name: None)
  monkeypatch.chdir(tmp_path)
  assert helpers['find_project']() is None
  (tmp_path / 'sslax' / 'configs').mkdir(parents=True)
  (tmp_path / 'sslax' / 'configs' / 'simclr.py').touch()
  (tmp_path / 'sslax' / 'launch' / 'colab').mkdir(parents=True)
  assert helpers['find_project']() == tmp_path / 'sslax'
  monkeypatch.chdir(tmp_path / 'sslax' / 'launch' / 'colab')
  assert helpers['find_project']() == tmp_path / 'sslax'
  helpers['METHOD'] = 'simcrl'
  assert helpers['find_project']() is None


def cell(helpers, word, **names):
  """Runs the code cell that has this word, with stand-ins by name for what its own lines define."""
  (source,) = (source for _, source in code_cells() if word in source)
  tree = ast.parse(source)
  tree.body = [node for node in tree.body if getattr(node, 'name', '') not in names]
  exec(compile(tree, str(NOTEBOOK), 'exec'), helpers | names)


def test_a_git_url_is_cloned_once(helpers, tmp_path, monkeypatch, capsys):
  origin = tmp_path / 'origin'
  (origin / 'configs').mkdir(parents=True)
  (origin / 'configs' / 'simclr.py').touch()
  git = ['git', '-C', str(origin), '-c', 'user.name=n', '-c', 'user.email=e']
  for words in (['init', '-q', '-b', 'main'], ['add', '.'], ['commit', '-q', '-m', 'm']):
    subprocess.run([*git, *words], check=True)
  (tmp_path / 'content').mkdir()
  monkeypatch.chdir(tmp_path / 'content')
  monkeypatch.setattr(helpers['importlib'].util, 'find_spec', lambda name: None)
  with pytest.raises(RuntimeError, match='set REPO'):
    cell(helpers, 'def missing_packages', REPO='', REF='')
  for _ in range(2):
    cell(helpers, 'def missing_packages', REPO=f'file://{origin}', REF='main')
  assert capsys.readouterr().out.count(f'sslax in {tmp_path / "content" / "sslax"}') == 2
  with pytest.raises(RuntimeError, match='it has simclr'):
    cell(helpers, 'def missing_packages', REPO=f'file://{origin}', REF='', METHOD='simcrl')


def test_drive_and_buckets_are_mounted(helpers, tmp_path, monkeypatch, capsys):
  calls = []
  colab = types.ModuleType('google.colab')
  colab.drive = types.SimpleNamespace(mount=lambda where: calls.append(('drive', where)))
  colab.auth = types.SimpleNamespace(authenticate_user=lambda: calls.append(('auth',)))
  monkeypatch.setitem(sys.modules, 'google.colab', colab)
  monkeypatch.setitem(sys.modules, 'google', types.ModuleType('google'))
  monkeypatch.setattr(helpers['importlib'].util, 'find_spec', lambda name: name)
  monkeypatch.setenv('HOME', str(tmp_path))

  def run(*words):
    calls.append(words)

  for workdir in ('/content/drive/MyDrive/sslax/r1', 'gs://bucket/runs/r1', '~/r1'):
    cell(helpers | {'run': run, 'accelerator': 'cpu'}, 'google.colab', WORKDIR=workdir)
  mount = tmp_path / 'gcs' / 'bucket'
  assert [call for call in calls if call[0] != sys.executable] == [
    ('drive', '/content/drive'),
    ('auth',),
    ('gcsfuse', '--implicit-dirs', '--rename-dir-limit=100000', 'bucket', str(mount)),
  ]
  places = ['/content/drive/MyDrive/sslax/r1', mount / 'runs' / 'r1', tmp_path / 'r1']
  assert capsys.readouterr().out == ''.join(f'results in {place}\n' for place in places)


# Executed


def environment(folder):
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'JAX_COMPILATION_CACHE_DIR': trainer.environment()['JAX_COMPILATION_CACHE_DIR'],
    'IPYTHONDIR': str(folder / 'ipython'),
    'JUPYTER_DATA_DIR': str(folder / 'jupyter'),  # so that the kernel is this Python, whatever is installed for the user
  }


STEPS = 100  # with ten checkpoints: the machine is lost long before the end
SMALL = {'batch_size': 32, 'online.every_steps': 0, 'method.encoder.depth': 1, 'method.decoder.depth': 1}
PARAMETERS = dict(
  METHOD='mae',  # which has reconstructions and attention
  DATASET='digits:@train[:300]',
  TEST_DATASET='digits:@test[:100]',
  STEPS=STEPS,
  SAVE_EVERY=10,
  OVERRIDES=' '.join(f'--config.{key}={value}' for key, value in SMALL.items()),
  PROBES='knn',
)


def start(folder, name):
  """papermill of the notebook, on one CPU."""
  words = [word for key, value in {**PARAMETERS, 'WORKDIR': folder / 'run'}.items() for word in ('-p', key, str(value))]
  command = [sys.executable, '-m', 'papermill', '--no-progress-bar', '-k', 'python3', str(NOTEBOOK), str(folder / name), *words]
  env = environment(folder)
  with (folder / f'{name}.log').open('w') as log:
    return subprocess.Popen(command, cwd=NOTEBOOK.parent, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def executed(folder, name):
  """The printed text and the pictures of an execution that goes well."""
  assert start(folder, name).wait(600) == 0, (folder / f'{name}.log').read_text()[-3000:]
  outputs = [output for cell in json.loads((folder / name).read_text())['cells'] for output in cell.get('outputs', [])]
  text = ''.join(''.join(output['text']) for output in outputs if output['output_type'] == 'stream')
  return text, ''.join(''.join(output['data'].get('text/html', '')) for output in outputs if 'data' in output)


@pytest.fixture(scope='module')
def lost(tmp_path_factory):
  """The folder of an execution whose machine was lost after a checkpoint."""
  pytest.importorskip('papermill')
  pytest.importorskip('ipykernel')
  psutil = pytest.importorskip('psutil')
  folder = tmp_path_factory.mktemp('notebook')
  first = start(folder, 'first.ipynb')
  deadline = time.time() + 300
  while not list((folder / 'run' / 'checkpoints').glob('*10')):
    assert first.poll() is None and time.time() < deadline, (folder / 'first.ipynb.log').read_text()[-3000:]
    time.sleep(0.02)
  for process in [*psutil.Process(first.pid).children(recursive=True), first]:
    process.kill()
  first.wait()
  assert json.loads((folder / 'run' / 'status.json').read_text())['reason'] == 'running'
  return folder


@pytest.mark.slow
def test_the_next_machine_resumes(lost):
  text, pages = executed(lost, 'second.ipynb')
  assert 'runs on CPU' in text and 'resuming at step' in text and '100%' in text and 'raw pixels' in text
  for title in ('Loss', 'Map of the test features (PCA)', 'What the method predicts', 'Where the last block looks'):
    assert f'<h3>{title}</h3>' in pages
  lines = [json.loads(line)['step'] for line in (lost / 'run' / 'metrics.jsonl').read_text().splitlines()]
  assert lines == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_a_finished_run_says_so(lost):
  executed(lost, 'second.ipynb')
  text, pages = executed(lost, 'third.ipynb')
  assert f'finished, {STEPS} steps' in text and 'resuming' not in text and '<h3>Loss</h3>' in pages


@pytest.mark.slow
def test_the_stop_button_saves(tmp_path, monkeypatch):
  """A real kernel is interrupted in the middle of the training, as Jupyter does it, and the cell runs again."""
  pytest.importorskip('ipykernel')
  manager = pytest.importorskip('jupyter_client.manager')
  for key, value in environment(tmp_path).items():
    monkeypatch.setenv(key, value)
  kernel, client = manager.start_new_kernel(kernel_name='python3', cwd=str(NOTEBOOK.parent))

  def execute(source, stop_at=None):
    """(what it printed, the error or ''); interrupted once it has printed `stop_at`."""
    client.execute(source)
    text, error = '', ''
    while True:
      message = client.get_iopub_msg(timeout=300)
      if message['msg_type'] == 'stream':
        text += message['content']['text']
        if stop_at and stop_at in text:
          kernel.interrupt_kernel()
          stop_at = None
      if message['msg_type'] == 'error':
        error = message['content']['evalue']
      if message['msg_type'] == 'status' and message['content']['execution_state'] == 'idle':
        return text, error

  try:
    cells = [source for _, source in code_cells()]
    train = next(i for i, source in enumerate(cells) if "'sslax.train'" in source)
    for i, source in enumerate(cells[:train]):
      changes = f'\nSTEPS, SAVE_EVERY, WORKDIR = 60, 1000, {str(tmp_path / "run")!r}' if not i else ''
      assert execute(source + changes)[1] == ''
    text, error = execute(cells[train], stop_at='loss=')
    assert 'saves its state first' in text and 'run this cell again' in error, text + error
    assert json.loads((tmp_path / 'run' / 'status.json').read_text())['reason'] == 'interrupted'
    text, error = execute(cells[train])
    assert 'resuming at step' in text and 'done: ' in text and error == ''
  finally:
    client.stop_channels()
    kernel.shutdown_kernel(now=True)

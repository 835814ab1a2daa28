"""launch/tpu as a program: any Python from 3.9 on and nothing else, quick, quiet; and how it runs others."""

import ast
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from launch.pod import ROOT, script

from launch.tpu_pods import processes, snapshot
from launch.tpu_pods.errors import Mistake

TPU = ROOT / 'launch' / 'tpu'
PACKAGE = sorted((ROOT / 'launch' / 'tpu_pods').glob('*.py'))


# The program


@pytest.mark.parametrize('path', [TPU, *PACKAGE], ids=lambda p: p.name)
def test_the_standard_library_of_python_3_9_is_enough(path):
  text = path.read_text(encoding='utf-8')
  tree = ast.parse(text, feature_version=(3, 9))
  names = [node.module.split('.')[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
  names += [alias.name.split('.')[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
  assert set(names) <= sys.stdlib_module_names | {'tpu_pods'}
  assert 'tpu_pods' not in names or path == TPU
  assert len(text.splitlines()) <= 350


def run(*words, cwd='/', **env):
  done = subprocess.run(words, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=60)
  return done.returncode, done.stdout, done.stderr


def test_help_is_quick():
  """Without site-packages: what is measured is ours. The best of three, for other programs run here too."""
  took = []
  for _ in range(3):
    before = os.times()
    code, out, err = run(sys.executable, '-I', '-S', TPU, '--help')
    assert code == 0 and 'doctor' in out and err == ''
    after = os.times()
    took.append(after.children_user + after.children_system - before.children_user - before.children_system)
  assert min(took) < 0.3, took


def test_it_runs_by_a_link_and_leaves_nothing_beside_the_code(tmp_path):
  before = {path.relative_to(ROOT) for path in (ROOT / 'launch').rglob('__pycache__')}
  (tmp_path / 'bin').mkdir()
  (tmp_path / 'bin' / 'tpu').symlink_to(TPU)
  code, _, err = run(tmp_path / 'bin' / 'tpu', 'status', cwd=tmp_path, SSLAX_HOME=str(tmp_path / 'home'), PYTHONSAFEPATH='1')
  assert code == 2 and 'no pod was made from this machine' in err
  assert not (tmp_path / 'home').exists()
  assert {path.relative_to(ROOT) for path in (ROOT / 'launch').rglob('__pycache__')} == before


def test_an_older_python_is_told_so():
  old = f"import runpy, sys; sys.version_info = (3, 8, 1); runpy.run_path({str(TPU)!r}, run_name='__main__')"
  code, out, err = run(sys.executable, '-c', old)
  assert code == 2 and 'needs Python 3.9' in err and '3.8' in err and out == ''


def test_without_gcloud(tmp_path):
  code, _, err = run(
    sys.executable, TPU, 'status', '--name=pod', '--zone=z', '--dry_run', SSLAX_HOME=str(tmp_path), PATH=str(tmp_path)
  )
  assert code == 2 and 'gcloud is not installed: https://' in err and 'Traceback' not in err


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_when_it_is_stopped_it_stops_what_it_runs(tmp_path, number, code):
  script(tmp_path / 'gcloud', f'#!/bin/bash\necho $$ >{tmp_path}/pid.new\nmv {tmp_path}/pid.new {tmp_path}/pid\nexec sleep 60\n')
  env = {**os.environ, 'SSLAX_HOME': str(tmp_path / 'home'), 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
  # Whoever started these tests in the background has Ctrl-C ignored in all that they start.
  heed = 'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])'
  words = [sys.executable, '-c', heed, sys.executable, TPU, 'status', '--name=pod', '--zone=z']
  process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True)
  deadline = time.monotonic() + 30
  while not (tmp_path / 'pid').exists() and time.monotonic() < deadline:
    time.sleep(0.02)
  process.send_signal(number)
  assert process.communicate(timeout=30)[1] == '' and process.returncode == code
  pid = int((tmp_path / 'pid').read_text())
  while os.path.exists(f'/proc/{pid}') and time.monotonic() < deadline:
    time.sleep(0.02)
  assert not os.path.exists(f'/proc/{pid}')


# The programs that it runs


def test_a_program_gets_words_and_its_words_come_back(tmp_path):
  commands = processes.Commands(tmp_path / 'log')
  code = 'import sys; print(sys.argv[1:], sys.stdin.read()); print("why", file=sys.stderr); sys.exit(7)'
  output = commands.ask([sys.executable, '-c', code, 'a b', '$HOME', ';id'], 30)
  assert output == (7, "['a b', '$HOME', ';id'] \n", 'why\n') and output.last_words == 'why'
  assert (tmp_path / 'log').read_text().endswith(' a\\ b \\$HOME \\;id\n')


def test_a_limit_of_time_is_kept(monkeypatch):
  started = time.monotonic()
  assert processes.Commands().ask(['sleep', '60'], 0.2).code == 124
  monkeypatch.setattr(processes, 'KILL_AFTER', 0.2)
  deaf = ['bash', '-c', "trap '' TERM; echo ready; while :; do sleep 0.1; done"]
  assert processes.Commands().ask(deaf, 0.5) == (124, 'ready\n', '')
  assert processes.Commands().change_aloud(['sleep', '60'], 0.2) == 124
  assert time.monotonic() - started < 30
  assert processes.Commands().ask(['sleep', '0.2'], 0).code == 0, 'no limit'


def test_what_a_program_leaves_behind_is_not_waited_for():
  started = time.monotonic()
  assert processes.Commands().ask(['bash', '-c', 'sleep 20 & echo done'], 30).out == 'done\n'
  assert time.monotonic() - started < 15


def test_a_signal_is_a_code_as_a_shell_says_it():
  assert processes.Commands().ask(['bash', '-c', 'kill -9 $$'], 30).code == 137


def test_dry_run_prints_and_runs_nothing(tmp_path, capsys):
  commands = processes.Commands(None, dry_run=True)
  assert commands.change(['touch', str(tmp_path / 'a b')], 1).code == commands.change_aloud(['touch', 'c'], 1) == 0
  assert capsys.readouterr().out == f'touch {tmp_path}/a\\ b\ntouch c\n' and not list(tmp_path.iterdir())
  assert commands.ask(['echo', 'looks are taken'], 10).out == 'looks are taken\n'


# The code that is sent


def repository(folder):
  folder.mkdir()
  script(folder / 'run me.sh', '#!/bin/bash\n')
  (folder / 'a.py').write_text('a = 1\n')
  (folder / 'gone.py').write_text('')
  (folder / 'link').symlink_to('a.py')
  for words in (('init', '-q'), ('add', '-A')):
    subprocess.run(['git', *words], cwd=folder, check=True)
  (folder / 'gone.py').unlink()
  return folder


def test_what_git_tracks_is_sent_as_it_is_now(tmp_path, capsys):
  project, out = repository(tmp_path / 'my project'), tmp_path / 'out'
  out.mkdir()
  first = snapshot.pack(project, out)
  assert capsys.readouterr().err == ''
  with tarfile.open(first.tarball) as tar:
    members = {member.name: member for member in tar}
    assert list(members) == ['a.py', 'link', 'run me.sh'] and members['link'].issym()
    assert members['run me.sh'].mode & 0o100 and not members['a.py'].mode & 0o100
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members.values()} == {(0, 0, 0, '', '')}
  os.utime(project / 'a.py', (1, 1))
  assert snapshot.pack(project, out).name == first.name and first.tarball.name == f'code-{first.name}.tar.gz'
  (project / 'a.py').write_text('a = 2\n')
  (project / 'new.py').touch()
  assert snapshot.pack(project, out).name != first.name
  assert 'new.py' in capsys.readouterr().err


def test_code_that_cannot_be_sent(tmp_path, monkeypatch):
  with pytest.raises(Mistake, match='is no git repository'):
    snapshot.pack(tmp_path, tmp_path)
  project = repository(tmp_path / 'project')
  monkeypatch.setattr(snapshot, 'MAX_MIB', 0)
  (project / 'a.py').write_bytes(os.urandom(2**20))
  with pytest.raises(Mistake, match='git tracks 1 MiB here'):
    snapshot.pack(project, tmp_path)

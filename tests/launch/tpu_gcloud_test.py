"""Every line that launch/tpu gives to gcloud, before gcloud's own parser."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

from launch import fake_gcloud
from launch.tpu_pods import gcloud
from launch.tpu_pods.options import Options

ORACLE = """if True:
  import io, json, sys
  sys.path.insert(0, sys.argv[1])
  lines, formats = json.load(sys.stdin)
  sys.argv = ['gcloud']
  import gcloud
  from googlecloudsdk import gcloud_main
  from googlecloudsdk.core.resource import resource_printer
  cli = gcloud_main.CreateCLI([])
  codes = []
  for line in lines:
    print('@next', file=sys.stderr, flush=True)
    try:
      cli.Execute(line)
      codes.append(0)
    except SystemExit as stop:
      codes.append(stop.code)
  printed = []
  for resource, text in formats:
    out = io.StringIO()
    resource_printer.Print([resource], text, out=out)
    printed.append(out.getvalue().strip())
  print(json.dumps([codes, printed]))
"""


def every_line():
  """Each kind of line with each flag that it may have."""
  base = Options(name='pod', zone='us-central1-a', type='v5litepod-16', runtime='v2-alpha-tpuv5-lite', spot=True)
  change = dataclasses.replace
  more = dict(project='p', service_account='a@p', network='n', subnetwork='s', internal_ip=True, valid_for='3600s')
  for options in (base, change(base, spot=False, reserved=True), change(base, slices=2, **more)):
    yield gcloud.create(options)
    yield gcloud.delete(options)
    yield gcloud.describe_resource(options)
    yield gcloud.describe_node(options, 'pod')
    yield gcloud.describe_bucket(options, 'gs://b')
    yield gcloud.list_types(options)
  ways = ({}, {'internal_ip': True}, {'tunnel_through_iap': True}, {'internal_ip': True, 'tunnel_through_iap': True})
  for options in (change(base, project=project, **way) for project in ('', 'p') for way in ways):
    yield gcloud.ssh(options, 'pod', 0)
    yield gcloud.ssh(options, 'pod', 'all', "echo 'a b' (c)")
    yield gcloud.scp(options, '/tmp/tmp.1/code.tar.gz', 'pod', 'sslax/code.tar.gz')
  yield gcloud.list_quotas('p')


def pattern(call):
  return ' '.join(re.sub(r'(=|/).*', '', word) for word in call)


@pytest.mark.slow
def test_gcloud_accepts_every_line(box, tmp_path):
  """gcloud's own parser, without an account: it ends with 2 at a wrong flag, and asks for an account at a right one."""
  real = shutil.which('gcloud')
  if not real:
    pytest.skip('no gcloud: https://cloud.google.com/sdk/docs/install')
  box.make('v5e-4')
  box.cloud.buckets['gs://b'] = 'US-CENTRAL1'
  box.tpu('doctor', '--bucket=gs://b', '--type=v5litepod-4')
  box.tpu('ssh')
  box.ok('delete')
  built = [words[1:] for words in every_line()]
  assert {pattern(call) for call in box.cloud.calls} - {pattern(call) for call in built} == {
    'version --format', 'config get-value account', 'config get-value project',
  }, 'a line that is built elsewhere'  # fmt: skip
  lines = {pattern(call): call for call in [*built, *box.cloud.calls]}
  lines = [call for call in lines.values() if call[0] != 'version']
  wrong = ['compute', 'tpus', 'queued-resources', 'create', 'pod', '--zone=z', '--noed-id=pod']
  resource = {
    'state': {'state': 'ACTIVE'},
    'tpu': {'nodeSpec': [{'node': {'labels': {'sslax': 'pod'}, 'acceleratorType': 'v5p-8'}}]},
  }
  node = {'state': 'READY', 'networkEndpoints': [{'ipAddress': '127.0.0.1'}, {'ipAddress': '127.0.0.2'}]}
  bare = {'state': {'state': 'FAILED'}, 'tpu': {'nodeSpec': [{'node': {}}]}}
  places = {'details': {'value': '64'}, 'dimensions': {'zone': 'a'}, 'applicableLocations': ['a', 'b']}
  quota = {'quotaId': 'TPUV6E', 'dimensionsInfos': places}  # as --flatten leaves it
  formats = [(resource, fake_gcloud.RESOURCE), (node, fake_gcloud.NODE), (bare, fake_gcloud.RESOURCE), (quota, fake_gcloud.QUOTA)]
  library = pathlib.Path(real).resolve().parents[1] / 'lib'
  env = {**os.environ, 'CLOUDSDK_CONFIG': str(tmp_path / 'cloudsdk'), 'CLOUDSDK_CORE_PROJECT': 'p'}
  asked = json.dumps([[*lines, wrong], formats])
  done = subprocess.run(['python3', '-c', ORACLE, library], input=asked, capture_output=True, text=True, env=env)
  assert done.returncode == 0, done.stderr[-2000:]
  codes, printed = json.loads(done.stdout.splitlines()[-1])
  said = done.stderr.split('@next\n')[1:]
  assert printed == ['ACTIVE,pod,v5p-8', 'READY,127.0.0.1;127.0.0.2', 'FAILED,,', 'TPUV6E,64,a,a;b']
  assert codes.pop() == 2 and '--node-id' in said.pop(), 'the parser is no oracle'
  for line, code, text in zip(lines, codes, said, strict=True):
    assert code != 2 and ('active account' in text or line[0] == 'config'), f'gcloud {shlex.join(line)}: {text}'

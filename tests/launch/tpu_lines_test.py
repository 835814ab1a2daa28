"""From the words of a person to the words for gcloud, without running anything."""

import dataclasses

import pytest

from launch.tpu_pods import accelerators, doctor, flags, gcloud, memory, options, settings, training
from launch.tpu_pods.errors import Mistake
from launch.tpu_pods.hosts import Answer, Answers, parse
from launch.tpu_pods.options import Options

POD = Options(name='pod', zone='us-central1-a', type='v5litepod-16', runtime='v2-alpha-tpuv5-lite', spot=True)


# Words are read


@pytest.mark.parametrize(
  'words, given, rest',
  [
    (['status'], {}, []),
    (['create', '--name=a', '--type', 'v5e-8', '--spot'], {'name': 'a', 'type': 'v5e-8', 'spot': True}, []),
    (['create', '--service-account=a-b', '--dry-run'], {'service_account': 'a-b', 'dry_run': True}, []),
    (['logs', '--lines=5', '--lines=7'], {'lines': 7}, []),
    (['logs', '--grep=--a-b=c d'], {'grep': '--a-b=c d'}, []),
    (['run', '--wait', '--', '--wait', '--', '--help', 'a b'], {'wait': True}, ['--wait', '--', '--help', 'a b']),
    (['ssh', '--worker=1', '--', ''], {'worker': '1'}, ['']),
  ],
)
def test_a_line_is_read(words, given, rest):
  assert flags.read(words) == (words[0], given, rest)


@pytest.mark.parametrize(
  'words, said',
  [
    (['--name=a', 'status'], "unknown command '--name=a'"),
    (['stauts'], 'Did you mean status?'),
    (['status', '--nmae=a'], 'unknown flag --nmae. Did you mean --name?'),
    (['status', '--lines=3'], 'unknown flag --lines'),  # of another command
    (['status', '--na=a'], 'unknown flag --na'),  # no abbreviations: a later flag may begin alike
    (['status', 'name=a'], 'Did you mean --name?'),
    (['ssh', 'ls'], 'the command stands after --'),
    (['status', '--name'], '--name needs a value: --name=...'),
    (['create', '--name', '--spot'], '--name needs a value'),
    (['create', '--name', '--', 'x'], '--name needs a value'),
    (['create', '--spot=1'], '--spot takes no value'),
    (['logs', '--grep='], '--grep is empty'),
    (['logs', '--lines=-1'], '--lines=-1 is no whole number'),
    (['create', '--slices=0'], '--slices=0 must be a number of at least 1'),
    (['create', '--timeout=6'], '--timeout=6 is no duration'),
    (['status', '--', 'x'], 'takes nothing after --'),
  ],
)
def test_mistakes_on_a_line(words, said):
  with pytest.raises(Mistake) as mistake:
    flags.read(words)
  assert said in str(mistake.value)


def test_help_is_an_answer():
  for words in ([], ['-h'], ['--help'], ['help']):
    with pytest.raises(flags.Help) as text:
      flags.read(words)
    assert all(command in str(text.value) for command in flags.COMMANDS) and 'exit codes' in str(text.value)
  for command, what in flags.COMMANDS.items():
    with pytest.raises(flags.Help) as text:
      flags.read([command, '--help'])
    assert all(f'--{name}' in str(text.value) for name in (*what.flags, *flags.COMMON))


def test_every_flag_has_its_option_and_its_help():
  fields = {field.name: field for field in dataclasses.fields(Options)}
  assert fields.keys() - {'valid_for'} == flags.FLAGS.keys()
  used = {name for command in flags.COMMANDS.values() for name in (*command.flags, *flags.COMMON)}
  assert used == flags.FLAGS.keys()
  for name, flag in flags.FLAGS.items():
    assert isinstance(fields[name].default, bool) == (not flag.value), name
    if flag.read in (flags.number, flags.positive) and fields[name].default:
      assert f'{fields[name].default}' in flag.help + flag.value, f'the help of --{name} has another default'


@pytest.mark.parametrize('text, number', [('90s', 90), ('30m', 1800), ('6h', 21600), ('0s', 0)])
def test_durations(text, number):
  assert flags.seconds(text) == number


# What they come to


@pytest.mark.parametrize(
  'given, accelerator, runtime',
  [
    ('v5e-16', 'v5litepod-16', 'v2-alpha-tpuv5-lite'),
    ('v5litepod-4', 'v5litepod-4', 'v2-alpha-tpuv5-lite'),
    ('v5p-8', 'v5p-8', 'v2-alpha-tpuv5'),
    ('v6e-256', 'v6e-256', 'v2-alpha-tpuv6e'),
    ('v4-32', 'v4-32', 'tpu-ubuntu2204-base'),
    ('v2-8', 'v2-8', 'tpu-ubuntu2204-base'),
  ],
)
def test_types(given, accelerator, runtime):
  checked = options.checked_for_create(Options(name='pod', zone='z', type=given, on_demand=True))
  assert (checked.type, checked.runtime) == (accelerator, runtime)
  assert options.checked_for_create(dataclasses.replace(checked, runtime='mine')).runtime == 'mine'


@pytest.mark.parametrize(
  'given, said',
  [
    ('v5elite-16', 'Did you mean'), ('v7-8', 'is unknown'), ('v5e', 'lacks the number'), ('v5e-', 'lacks the number'),
    ('v5e-4x4', 'lacks the number'), ('v5p-08', 'lacks the number'), ('tpu7x-8', 'launch/gke'), ('-8', 'is unknown'),
  ],
)  # fmt: skip
def test_types_that_are_none(given, said):
  with pytest.raises(Mistake, match=said):
    accelerators.accelerator_type(given)


def test_a_preset_of_each_name_is_known():
  plan = training.planned(Options(run_id='r', workdir='/r', env='v5e,multislice'), ['--config=c'])
  assert plan == training.Plan('r', 'v5e,multislice', '/r', ('--config=c', '--workdir=/r'))
  assert training.planned(Options(run_id='r'), ['--config=c', '--workdir=gs://b/r']).arguments == (
    '--config=c',
    '--workdir=gs://b/r',
  )


@pytest.mark.parametrize(
  'location, region, good',
  [
    ('us-central1', 'us-central1', True), ('us-central1', 'us-central2', False), ('us-central1', 'us-central10', False),
    ('us', 'us-central1', True), ('us', 'europe-west4', False), ('nam4', 'us-central1', False), ('eu', 'us-central1', False),
    ('eu', 'europe-west4', True), ('europe-west4', 'europe-west4', True), ('asia', 'asia-east1', True),
    ('australia-southeast1', 'us-central1', False),
  ],
)  # fmt: skip
def test_regions(location, region, good):
  assert training.near(location, region) == good


def test_the_environment_sets_waits():
  seconds = settings.Seconds.of(
    {'SSLAX_POLL': '1', 'SSLAX_BACKOFF_MAX': '2.5', 'SSLAX_API_SECONDS': '3', 'SSLAX_SSH_SECONDS': ''}
  )
  assert (seconds.poll, seconds.backoff, seconds.backoff_max, seconds.api, seconds.ssh) == (1, 30, 2.5, 3, 300)
  with pytest.raises(Mistake, match='SSLAX_POLL=often'):
    settings.Seconds.of({'SSLAX_POLL': 'often'})


# What is remembered


def test_a_pod_is_remembered(tmp_path):
  kept = dataclasses.replace(POD, slices=2, internal_ip=True, python='3.12', service_account='a@b=c', valid_for='60s', run_id='r')
  memory.Memory(tmp_path, 'pod', dry_run=False).keep(kept)
  assert (tmp_path / 'tpu/pod/pod').read_text().startswith('zone=us-central1-a\ntype=v5litepod-16\n')
  found = memory.recall(tmp_path, 'status', {})
  assert found == dataclasses.replace(kept, run_id='')
  assert memory.recall(tmp_path, 'create', {'name': 'pod', 'reserved': True}).capacity == 'reserved', 'one replaces the others'
  assert memory.recall(tmp_path, 'status', {'zone': 'b'}).zone == 'b'


def test_what_an_earlier_version_remembered():
  text = 'zone=us-central1-a\nproject=p\nslices=2\nspot=1\nvalid_for=21600s\ntunnel_through_iap=1\nsecrets=/a b\nfuture=1\n'
  expected = dict(
    zone='us-central1-a', project='p', slices=2, spot=True, valid_for='21600s', tunnel_through_iap=True, secrets='/a b'
  )
  assert memory.read(text) == expected


@pytest.mark.parametrize(
  'pods, command, given, said',
  [
    ([], 'status', {}, 'no pod was made'),
    (['a', 'b'], 'status', {}, 'Known: a, b'),
    (['train'], 'status', {'name': 'tarin'}, 'Did you mean train?'),
    ([], 'create', {}, '--name is missing'),
    ([], 'create', {'name': 'a'}, '--zone is missing'),
    ([], 'watch', {'name': 'a'}, '--zone is missing'),
    *[([], 'create', {'name': name, 'zone': 'z'}, 'lower-case') for name in ('A', '1a', 'a-', 'a_b', 'a' * 41, 'a\n')],
  ],
)
def test_which_pod(tmp_path, pods, command, given, said):
  for pod in pods:
    memory.Memory(tmp_path, pod, dry_run=False).keep(POD)
  with pytest.raises(Mistake) as mistake:
    memory.recall(tmp_path, command, given)
  assert said in str(mistake.value)


def test_dry_run_leaves_no_trace(tmp_path):
  kept = memory.Memory(tmp_path / 'home', 'pod', dry_run=True)
  kept.keep(POD)
  kept.forget('setup')
  assert not (tmp_path / 'home').exists() and kept.text('setup') == ''


# Words for gcloud


def test_a_pod_is_asked_for():
  assert gcloud.create(POD)[5:] == [
    'pod', '--zone=us-central1-a', '--node-id=pod', '--accelerator-type=v5litepod-16', '--runtime-version=v2-alpha-tpuv5-lite',
    '--labels=sslax=pod', '--spot', '--async', '--quiet',
  ]  # fmt: skip
  all_of_it = dict(project='p', slices=3, spot=False, reserved=True, service_account='a@b', network='n', subnetwork='s')
  assert gcloud.create(dataclasses.replace(POD, **all_of_it, internal_ip=True, valid_for='60s'))[5:] == [
    'pod', '--zone=us-central1-a', '--project=p', '--node-count=3', '--node-prefix=pod', '--accelerator-type=v5litepod-16',
    '--runtime-version=v2-alpha-tpuv5-lite', '--labels=sslax=pod', '--reserved', '--service-account=a@b', '--network=n',
    '--subnetwork=s', '--internal-ips', '--valid-until-duration=60s', '--async', '--quiet',
  ]  # fmt: skip
  assert not {'--spot', '--reserved'} & set(gcloud.create(dataclasses.replace(POD, spot=False, on_demand=True)))


def test_it_is_deleted_with_its_nodes():
  assert ' '.join(gcloud.delete(POD)) == 'gcloud compute tpus queued-resources delete pod --zone=us-central1-a --force --quiet'


@pytest.mark.parametrize(
  'ways, track, flag',
  [
    ({}, [], []),
    ({'internal_ip': True}, [], ['--internal-ip']),
    ({'tunnel_through_iap': True}, ['alpha'], ['--tunnel-through-iap']),
    ({'tunnel_through_iap': True, 'internal_ip': True}, ['alpha'], ['--tunnel-through-iap']),
  ],
)
def test_ways_to_the_hosts(ways, track, flag):
  pod = dataclasses.replace(POD, **ways)
  how = ['--zone=us-central1-a', '--quiet', '--strict-host-key-checking=no', *flag]
  beginning = ['gcloud', *track, 'compute', 'tpus', 'tpu-vm']
  assert gcloud.ssh(pod, 'pod-1', 3, "echo 'a b' $(c)") == [
    *beginning, 'ssh', 'pod-1', *how, '--worker=3', "--command=echo 'a b' $(c)",
  ]  # fmt: skip
  assert gcloud.ssh(pod, 'pod', 0) == [*beginning, 'ssh', 'pod', *how, '--worker=0']
  assert gcloud.scp(pod, '/a b', 'pod', 'sslax/c') == [*beginning, 'scp', '/a b', 'pod:sslax/c', *how, '--worker=all']


# What comes back


def test_answers_of_hosts():
  good = '@sslax w0 0 started\n@sslax w10 2 busy: r1 is running\n@sslax s1w0 0\n@sslax w0 0 again\n'
  text = f'Welcome\n{good} @sslax w1 0 no\n@sslax w2\n'
  assert parse(text) == {'w0': (0, 'again'), 'w10': (2, 'busy: r1 is running'), 's1w0': (0, '')}


def test_the_code_of_all_hosts(capsys):
  assert Answers({'w0': Answer(0, 'done')}).code('x') == 0
  assert Answers({'w0': Answer(0, 'done'), 'w1': Answer(1, 'no disk')}, {'w2': 'no answer by ssh'}).code('x') == 1
  assert Answers({'w0': Answer(0, 'done')}, {'w2': 'no answer by ssh'}).code('packing') == 170
  assert capsys.readouterr().err.splitlines()[-1] == 'packing: not done on w2 (no answer by ssh)'
  assert [host for host, _ in Answers(dict.fromkeys(('w10', 'w9', 's1w0', 's0w2'), Answer(0, ''))).sorted()] == [
    's0w2',
    's1w0',
    'w9',
    'w10',
  ]


def test_quotas():
  rows = (
    'TPUV5sLitepodA,0,us-a,',
    'TPUV5sPreemptibleLitepod,64,us-b,x;us-a',
    'TPUV6E,8,us-a,',
    'TPUV5sB,9,us-a-b,',
    'TPUV5sC,,us-a,',
  )
  answer = '\n'.join(rows)
  assert doctor.quotas(answer, 'v5litepod', 'us-a') == ['TPUV5sPreemptibleLitepod=64']
  assert doctor.quotas(answer, 'v6e', 'us-a') == ['TPUV6E=8'] and doctor.quotas(answer, 'v4', 'us-a') == []


def test_judged_hosts():
  said = {
    'w0': Answer(0, '1000 50 GiB free, python 3.12, jax 0.10'),
    'w1': Answer(0, '1031 50 GiB free, python 3.11, jax 0.10; no libtpu'),
  }
  first, second, third = doctor.judged(Answers(said, {'w2': 'no answer by ssh'}), 1000.9)
  assert first == ('ok', 'w0: 50 GiB free, python 3.12, jax 0.10')
  assert second[0] == third[0] == 'FAIL'
  assert second[1].endswith('; no libtpu; its clock is 31 s off; other versions than on another host')

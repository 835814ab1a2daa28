"""Commands and flags: what each means, how a line is read, what --help says."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from .errors import Mistake, suggest

PROGRAM = 'launch/tpu'


# Values: each function gives the value, or a ValueError that says what is wrong with it


def seconds(text: str) -> int:
  """90s, 30m, 6h -> 90, 1800, 21600."""
  match = re.fullmatch('([0-9]+)([smh])', text)
  if not match:
    raise ValueError('is no duration: 90s, 30m or 6h')
  return int(match[1]) * {'s': 1, 'm': 60, 'h': 3600}[match[2]]


def duration(text: str) -> str:
  seconds(text)
  return text


def number(text: str) -> int:
  if not re.fullmatch('[0-9]+', text):
    raise ValueError('is no whole number')
  return int(text)


def positive(text: str) -> int:
  if not re.fullmatch('[1-9][0-9]*', text):
    raise ValueError('must be a number of at least 1')
  return int(text)


# What there is


class Flag(NamedTuple):
  help: str
  value: str = ''  # what stands behind =, as --help shows it; empty: a switch
  read: Callable[[str], Any] = str


class Command(NamedTuple):
  help: str
  flags: Sequence[str]
  usage: str = '[flags]'
  rest: str = ''  # what stands behind --; empty: nothing may
  more: str = ''  # the end of its --help


FLAGS = {
  'name': Flag('the pod; may be left out where this machine has made one pod only', 'POD'),
  'zone': Flag('where it is; remembered after create', 'us-central2-b'),
  'project': Flag("default: gcloud's", 'PROJECT'),
  'dry_run': Flag('looks are taken, changes are printed as they would be run'),
  'internal_ip': Flag('a pod without public addresses, from a machine in its network'),
  'tunnel_through_iap': Flag('reach it through a tunnel (alpha commands of gcloud)'),
  'type': Flag('kind and number of chips (v5e, v6e) or cores (v4, v5p)', 'v5litepod-16'),
  'runtime': Flag('software of the VM; default: what fits the type', 'VERSION'),
  'slices': Flag('how many of that type, joined by the data centre network (default: 1)', 'N', positive),
  'spot': Flag('pay little; may be taken away, and watch brings it back'),
  'reserved': Flag('pay by a reservation'),
  'on_demand': Flag('pay the full price'),
  'service_account': Flag('what the pod may do: read and write the bucket', 'EMAIL'),
  'network': Flag('default: the network of that name', 'NETWORK'),
  'subnetwork': Flag('of the network', 'SUBNETWORK'),
  'timeout': Flag('Google forgets the request after it: 90s, 30m or 6h', '6h', duration),
  'wait': Flag('until it is there, or has ended'),
  'python': Flag('a version, or the folder of an environment that all hosts see (default: 3.12)', '3.12'),
  'extras': Flag('builds of jax (default: tpu)', 'tpu'),
  'secrets': Flag('lines NAME=value in a file that only you can read, for the environment of the training', 'FILE'),
  'run_id': Flag('name of the run: the same name goes on where it stopped', 'RUN'),
  'workdir': Flag('gs://BUCKET/PLACE, or an absolute path that all hosts share', 'PLACE'),
  'env': Flag('flags of launch/env/*.env, for example v5e,multislice', 'NAMES'),
  'allow_cross_region': Flag('the bucket may be in another region than the pod'),
  'max_restarts': Flag('then it is given up (default: 50)', 'N', number),
  'max_hours': Flag('of this watch; then the run is stopped in order', 'N', number),
  'max_paid_hours': Flag('while the pod was ACTIVE, over all watches of the run; then it is stopped in order', 'N', number),
  'delete_when_done': Flag('the pod, however the run ends'),
  'worker': Flag('one host: 0, w0, or s0w0 where there are several slices', 'HOST'),
  'lines': Flag("of each host's log (default: 20)", 'N', number),
  'follow': Flag('until Ctrl-C'),
  'grep': Flag('only lines that match', 'REGEX'),
  'now': Flag('KILL at once'),
  'grace': Flag('seconds between TERM and KILL (default: 30)', '30', number),
  'bucket': Flag('is it near the pod?', 'gs://B'),
}

COMMON = ('name', 'zone', 'project', 'dry_run', 'internal_ip', 'tunnel_through_iap')
_CREATE = ('type', 'runtime', 'slices', 'spot', 'reserved', 'on_demand', 'service_account', 'network', 'subnetwork', 'timeout')
_SETUP = ('python', 'extras', 'secrets')
_RUN = ('run_id', 'workdir', 'env', 'allow_cross_region')
_LIMITS = ('max_restarts', 'max_hours', 'max_paid_hours', 'delete_when_done')
_MAKE = '--zone=us-central2-b --type=v5litepod-16 --spot|--reserved|--on_demand'
_START = '--run_id=RUN --workdir=PLACE [flags] -- --config=configs/simclr.py:imagenet ...'
_TRAIN = 'what sslax.train is told'

COMMANDS = {
  'create': Command('ask Google for a pod', (*_CREATE, 'wait'), f'--name=POD {_MAKE} [flags]'),
  'setup': Command('code and environment on every host; again after an edit', _SETUP),
  'run': Command('start the training on every host, detached', (*_RUN, 'wait'), _START, _TRAIN),
  'watch': Command(
    'make what is missing, run, and restart what ends early',
    (*_RUN, *_LIMITS, *_CREATE, *_SETUP),
    _START,
    _TRAIN,
    f'Where there is no pod yet: {_MAKE} too.\nThe same line again goes on with the run.\n',
  ),
  'status': Command('the pod and what runs on it', (), more='exit code: of the run, or 0 while it runs\n'),
  'logs': Command("the end of every host's log", ('worker', 'lines', 'follow', 'grep')),
  'ssh': Command(
    'a shell on a host, or a command',
    ('worker',),
    '[flags] [-- COMMAND]',
    'the command',
    more='--worker=all: a command on every host\n',
  ),
  'kill': Command('stop the training: TERM, a wait for the save, KILL', ('now', 'grace')),
  'delete': Command('the pod and its disks; buckets are not touched', ()),
  'doctor': Command('what would go wrong', ('type', 'bucket')),
}

CODES = """exit codes: 0 done, 1 Google refused, 2 user error, 3 diverged, 42 interrupted with the state saved,
            170 hosts or answers missing
"""


# A line is read


class Line(NamedTuple):
  command: str
  given: dict[str, Any]  # only the flags that were given
  rest: list[str]  # what stands behind --


class Help(Exception):
  """Somebody asked; the text is the answer."""


def read(words: Sequence[str]) -> Line:
  """
  Raises:
    Help: asked for, or nothing was said at all.
    Mistake: a word that nothing here knows, or a value that is none.
  """
  parser, commands = _parsers()
  command, *words = words or ['--help']
  if command in ('-h', '--help', 'help'):
    raise Help(parser.format_help())
  if command not in COMMANDS:
    raise Mistake(f"unknown command '{command}'.{suggest(command, COMMANDS)}")
  end = words.index('--') if '--' in words else len(words)
  own, rest = words[:end], words[end + 1 :]
  if '--help' in own or '-h' in own:
    raise Help(commands[command].format_help())
  # --run-id is --run_id; what stands behind = is left alone.
  own = [re.sub('^--[^=]*', lambda name: '--' + name[0][2:].replace('-', '_'), word) for word in own]
  namespace, unknown = parser.parse_known_args([command, *own])
  if unknown:
    _refuse(unknown[0], command)
  if rest and not COMMANDS[command].rest:
    raise Mistake(f'{PROGRAM} {command} takes nothing after --')
  return Line(command, {name: value(name, text) for name, text in vars(namespace).items()}, rest)


def value(name: str, text: Any) -> Any:
  """The value of a flag as given, or as remembered; a switch is True.

  Raises:
    Mistake: it is none.
  """
  if not FLAGS[name].value:
    return True
  if not text:
    raise Mistake(f'--{name} is empty')
  try:
    return FLAGS[name].read(text)
  except ValueError as error:
    raise Mistake(f'--{name}={text} {error}') from None


def _refuse(word: str, command: str) -> NoReturn:
  names, near = (*COMMON, *COMMANDS[command].flags), word.partition('=')[0].lstrip('-')
  hint = suggest(near, names, prefix='--')
  if word.startswith('--'):
    raise Mistake(f'unknown flag --{near}.{hint}')
  behind = f'; {COMMANDS[command].rest} stands after --' if COMMANDS[command].rest else ''
  raise Mistake(f"stray argument '{word}': arguments are flags (--name=value){behind}.{hint}")


class _Parser(argparse.ArgumentParser):
  """Its namespace holds what was given, and nothing else."""

  def __init__(self, **more: Any):
    super().__init__(
      formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=120),
      allow_abbrev=False,  # a later flag may begin alike
      add_help=False,  # read() answers
      argument_default=argparse.SUPPRESS,
      **more,
    )

  def error(self, message: str) -> NoReturn:
    """argparse's few complaints, in our words."""
    flag = re.match('argument (--[a-z_]+)', message)
    if flag and 'expected' in message:
      message = f'{flag[1]} needs a value: {flag[1]}=...'
    elif flag and 'ignored explicit argument' in message:
      message = f'{flag[1]} takes no value'
    raise Mistake(message)


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
  """The parser, and those of its commands, which it hands on to."""
  story = 'TPU pods: made, set up, trained on, and brought back when they are taken away. The whole story: docs/launching.md.'
  listed = ''.join(f'  {name:<8} {command.help}\n' for name, command in COMMANDS.items())
  parser = _Parser(
    prog=PROGRAM,
    usage=f'{PROGRAM} COMMAND [--name=POD] [flags]',
    description=f'{story}\n\ncommands:\n{listed}',
    epilog=f'flags of a command: {PROGRAM} COMMAND --help. All take --dry_run: what would be run is printed.\n{CODES}',
  )
  commands = parser.add_subparsers(help=argparse.SUPPRESS)
  parsers = {}
  for name, command in COMMANDS.items():
    usage, description = f'{PROGRAM} {name} {command.usage}', f'{name}: {command.help}.'
    parsers[name] = commands.add_parser(name, usage=usage, description=description, epilog=command.more + CODES)
    for title, names in (('flags', command.flags), ('flags of all commands', COMMON)):
      group = parsers[name].add_argument_group(title)
      for flag in names:
        kind: dict[str, Any] = {'metavar': FLAGS[flag].value} if FLAGS[flag].value else {'action': 'store_true'}
        group.add_argument(f'--{flag}', help=FLAGS[flag].help, **kind)
  return parser, parsers

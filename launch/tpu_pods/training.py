"""A run on a pod: what it is told, whether it may start there, its start and end on every host."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import time
from collections.abc import Mapping, Sequence

from . import codes, gcloud
from .errors import Mistake, Stop, say, suggest
from .hosts import NEW, Answer, Answers, Fleet, verb
from .options import Options
from .pod import Pod, need_active

PRESETS = pathlib.Path(__file__).resolve().parents[1] / 'env'
SAVE_SECONDS = 30  # what a save is given

NONE, RUNNING, ENDED, MIXED = 'none', 'running', 'ended', 'mixed'  # MIXED: on some hosts only


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is to be trained.

  Attributes:
    arguments: of sslax.train; --workdir is one of them.
  """

  run_id: str
  presets: str
  workdir: str
  arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Run:
  """What runs on a pod.

  Attributes:
    code: the worst of those that hosts ended with.
    joined: how many hosts have met the others.
  """

  state: str
  answers: Answers
  code: int = 0
  run_id: str = ''
  attempt: int = 0
  joined: int = 0


def planned(options: Options, rest: Sequence[str]) -> Plan:
  """
  Args:
    rest: what stood behind --.

  Raises:
    Mistake: something is missing, or cannot be.
  """
  if not re.fullmatch('[A-Za-z0-9][A-Za-z0-9_.-]{0,62}', options.run_id):
    raise Mistake(
      f"--run_id={options.run_id} must be a name of letters, digits, '_', '.' and '-': the same name goes on with the run"
    )
  for preset in filter(None, options.env.split(',')):
    known = sorted(path.stem for path in PRESETS.glob('*.env'))
    if preset not in known:
      raise Mistake(f'--env={preset}: there are no such flags.{suggest(preset, known)}')
  behind = [word.partition('=')[2] for word in rest if word.startswith('--workdir=')]
  if options.workdir and behind:
    raise Mistake('--workdir is given twice')
  if not any('--config' in word for word in rest):
    raise Mistake('no --config: the arguments of sslax.train stand after --, for example -- --config=configs/simclr.py:imagenet')
  workdir = options.workdir or (behind or [''])[-1]
  if not workdir:
    raise Mistake('--workdir is missing: a place that all hosts share')
  if not workdir.startswith(('gs://', '/')):
    raise Mistake(f'--workdir={workdir} must be gs://... or an absolute path that all hosts share')
  arguments = (*rest, *([f'--workdir={workdir}'] if options.workdir else []))
  return Plan(options.run_id, options.env or 'none', workdir, arguments)


def check_region(pod: Pod, place: str) -> None:
  """A bucket elsewhere costs money and time with every checkpoint.

  Args:
    place: gs://BUCKET/..., or a folder, of which nothing is asked.

  Raises:
    Mistake: there is no such bucket, or it is in another region.
  """
  if not place.startswith('gs://') or pod.options.allow_cross_region:
    return
  bucket = '/'.join(place.split('/')[:3])
  try:
    location = gcloud.look(pod.commands, gcloud.describe_bucket(pod.options, bucket), pod.seconds.api).lower()
  except gcloud.Absent:
    raise Mistake(f'there is no bucket {bucket}') from None
  except gcloud.NoAnswer as why:
    raise Stop(codes.LOST, str(why)) from None
  if not near(location, pod.options.region):
    raise Mistake(
      f'the bucket {bucket} is in {location}, the pod in {pod.options.region}: each checkpoint would cross regions. '
      '--allow_cross_region allows it'
    )


def near(location: str, region: str) -> bool:
  """A bucket's location may be one region, or several: us, eu, asia."""
  several = {'us': 'us-', 'eu': 'europe-', 'asia': 'asia-'}
  return location == region or location in several and region.startswith(several[location])


def look_at_run(fleet: Fleet) -> Run:
  return summarized(fleet.ask(verb('current', 'status'), fleet.pod.seconds.ssh))


def summarized(answers: Answers) -> Run:
  """One run of what the hosts say: 'none', 'running RUN ATTEMPT joined|starting', 'ended RUN ATTEMPT CODE'."""
  texts = [answer.text for host, answer in answers.sorted() if host != NEW]
  found = [re.fullmatch(r'(running|ended) (\S+) (\d+) (\w+)', text) for text in texts]
  started = [match.groups() for match in found if match]
  ended = [int(more) for state, _, _, more in started if state == ENDED]
  if not started:
    state = NONE
  elif len(ended) == len(started):
    state = ENDED
  else:
    state = RUNNING if not ended and len(started) == len(texts) else MIXED
  return Run(
    state=state,
    answers=answers,
    code=codes.worst(ended),
    run_id=started[-1][1] if started else '',
    attempt=max((int(attempt) for _, _, attempt, _ in started), default=0),
    joined=sum(more == 'joined' for _, _, _, more in started),
  )


def run(pod: Pod, rest: Sequence[str]) -> int:
  """The command."""
  plan = planned(pod.options, rest)
  fleet = Fleet(pod, need_active(pod))
  check_region(pod, plan.workdir)
  found = look_at_run(fleet)
  code = found.answers.code(f'asking {pod.name} for what runs')
  if code:
    return code
  need_idle(pod, found)
  code = start(fleet, plan, found.attempt + 1)
  return code or (wait(fleet) if pod.options.wait and not pod.dry_run else codes.DONE)


def need_idle(pod: Pod, found: Run) -> None:
  if found.state in (RUNNING, MIXED):
    raise Mistake(f'busy: {found.run_id} is running on {pod.name}; launch/tpu kill stops it in order')


def start(fleet: Fleet, plan: Plan, attempt: int) -> int:
  """On every host, or on none; 0: it runs, or has ended already."""
  pod = fleet.pod
  # The number of hosts: one that does not find the others ends, instead of training alone in the same workdir.
  words = (plan.run_id, attempt, plan.presets, f'--num_processes={len(fleet)}', *plan.arguments)
  answers = fleet.change(verb('current', 'run', *words), pod.seconds.ssh)
  if pod.dry_run:
    return codes.DONE
  code = answers.code(f'starting {plan.run_id}')
  if code:  # some hosts alone would wait for the others for ever
    say('it is stopped where it had started')
    fleet.change(verb('current', 'kill', 5), pod.seconds.ssh)
    return code
  say(f'{plan.run_id} is running (attempt {attempt}), whatever happens to this machine')
  _wait_for_each_other(fleet)
  return codes.DONE


def _wait_for_each_other(fleet):
  """Until all hosts have met, or the run has ended; names those that have not in time."""
  started, limit = time.time(), fleet.pod.seconds.join
  late: Mapping[str, Answer] = {}
  while time.time() - started < limit:
    found = look_at_run(fleet)
    late = {host: answer for host, answer in found.answers.sorted() if not answer.text.endswith('joined')}
    if found.state != RUNNING or found.joined >= len(fleet):
      return
    time.sleep(2)
  if late:
    say('\n  '.join([f'after {limit:g} s these hosts have not met the others yet:', *late]))


def wait(fleet: Fleet) -> int:
  """Until the run has ended: its code. Ctrl-C ends the waiting, not the training."""
  try:
    while True:
      found = look_at_run(fleet)
      if found.state == ENDED and not found.answers.missing:
        say(f'{found.run_id} ended with code {found.code}')
        return found.code
      time.sleep(fleet.pod.seconds.poll)
  except KeyboardInterrupt:
    raise Stop(130, 'the training goes on; launch/tpu logs --follow shows it') from None


def kill(pod: Pod) -> int:
  """The command."""
  return kill_run(Fleet(pod, need_active(pod)), 0 if pod.options.now else pod.options.grace)


def kill_run(fleet: Fleet, grace: int = SAVE_SECONDS) -> int:
  """TERM, `grace` seconds for the save, KILL."""
  answers = fleet.change(verb('current', 'kill', grace), fleet.pod.seconds.ssh + grace)
  if fleet.pod.dry_run:
    return codes.DONE
  for host, answer in answers.sorted():
    say(f'{host}: {answer.text}')
  return answers.code('stopping')

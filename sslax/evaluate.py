"""Evaluate the checkpoints of a run: python -m sslax.evaluate --workdir=runs/digits --probes=knn,linear,fewshot

A separate program: it rebuilds the method from the config that the run saved and never writes to the run's checkpoints. Results
go to eval.jsonl (each probe of each step once), a table on the terminal and report.html. Floors (raw pixels, the same encoder
at random initialisation) stand beside every number.
"""

import pathlib

from absl import flags

from sslax.run import cli


def _probes() -> str:
  """The files in evals/ that hold a probe; read and not imported, which would take a second before any flag is looked at."""
  files = sorted((pathlib.Path(__file__).parent / 'evals').glob('*.py'))
  return ', '.join(path.stem for path in files if '(Probe):' in path.read_text(encoding='utf-8'))


WORKDIR = flags.DEFINE_string('workdir', None, 'The workdir of a training run.')
PROBES = flags.DEFINE_list(
  'probes',
  ['knn', 'linear'],
  f'Any of {_probes()}, or FILE.py:CLASS of your own.',
)
STEP = flags.DEFINE_string('step', 'latest', 'latest, all, or the number of a step.')
WATCH = flags.DEFINE_bool('watch', False, 'Follow a running training: evaluate each new checkpoint until the run is done.')
POLL_SECONDS = flags.DEFINE_float('poll_seconds', 5, 'With --watch: how often to look for a new checkpoint.')
TIMEOUT = flags.DEFINE_float('timeout', 0, 'With --watch: give up after so many seconds without a new checkpoint; 0: never.')
SET = flags.DEFINE_multi_string('set', [], 'A setting of a probe, NAME.FIELD=VALUE: --set=knn.k=20. May be repeated.')
DATA_TRAIN = flags.DEFINE_string(
  'data_train', '', "URI of the labelled training set of the probes; default: the run's data.train."
)
DATA_TEST = flags.DEFINE_string('data_test', '', "URI of the labelled test set; default: the run's data.test.")
KNN_K = flags.DEFINE_integer('knn_k', 0, "Neighbours of the kNN probe; default: the config's eval.knn_k.", lower_bound=0)
KNN_TEMPERATURE = flags.DEFINE_float('knn_temperature', 0, "Of its votes; default: the config's.", lower_bound=0)
TEMPLATES = flags.DEFINE_string(
  'templates', '', "Of the zero-shot probe: plain, photo, digits, fashion, cifar, imagenet; default: the config's eval.templates."
)
CLASS_NAMES = flags.DEFINE_string('class_names', '', "A file with a class name a line; default: the data set's names.")
FLOORS = flags.DEFINE_bool(
  'floors', True, 'Also evaluate the baselines: the input itself (raw pixels, ...) and the method at random initialisation.'
)
REPORT = flags.DEFINE_bool('report', True, 'Write report.html.')


def main() -> None:
  from sslax.errors import UserError

  if not WORKDIR.value:
    raise UserError('--workdir is missing: the folder that sslax.train wrote to')
  workdir = pathlib.Path(WORKDIR.value).expanduser().absolute()
  if STEP.value not in ('latest', 'all') and not STEP.value.isdigit():
    raise UserError(f'--step={STEP.value} is none of latest, all, or a number')
  from sslax.evaluation import picks
  from sslax.run import config as configs

  short = {
    'knn.k': KNN_K.value,
    'knn.temperature': KNN_TEMPERATURE.value,
    'zeroshot.templates': TEMPLATES.value,
    'zeroshot.class_names': CLASS_NAMES.value,
  }
  settings = [f'{key}={value}' for key, value in short.items() if value and key.split('.')[0] in PROBES.value]
  probes = picks.pick(PROBES.value, configs.load(workdir).eval.probes, [*settings, *SET.value])
  cli.start_jax()
  from sslax.evaluation import report
  from sslax.evaluation.evaluation import Evaluation, Settings

  evaluation = Evaluation(workdir, probes, Settings(DATA_TRAIN.value, DATA_TEST.value, FLOORS.value, REPORT.value))
  if WATCH.value:
    evaluation.watch(POLL_SECONDS.value, TIMEOUT.value)
  else:
    evaluation.run(STEP.value)
  report.show(evaluation)


if __name__ == '__main__':
  cli.run(main)

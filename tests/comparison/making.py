"""The tiny comparison, in this process."""

import pathlib

from run.trainer import TINY

from sslax.comparison import Comparison
from sslax.comparison.journal import Journal
from sslax.run import config as configs
from sslax.spec import find

FILE = pathlib.Path(__file__).with_name('tiny_compare.py')
WILD = f'wild={TINY} optim.learning_rate=1e30'


def tiny_comparison(folder, only=(), file=FILE, **changes):
  """The Comparison of the tiny config in `folder`, with these leaves changed: shared__batch_size=8 is shared.batch_size."""
  config = find(f'{file}:get_config')()
  config.update_from_flattened_dict({key.replace('__', '.'): value for key, value in changes.items()})
  return Comparison(config, file, folder, only)


def write_run(job, name, seed, top1, **fields):
  """The files of a run that is done."""
  folder = job.plan.folder(name, seed)
  folder.mkdir(parents=True)
  configs.save(job.plan.resolve('cold', seed), folder)
  journal = Journal(folder)
  journal.update(status='done', figures={'knn': top1}, batch_size=32, encoder_parameters=10, parameters=12, **fields)


def session(steps, seconds, **more):
  """A session of a journal that has ended."""
  return {'began': 0.0, 'start_step': 0, 'step': steps, 'seconds': seconds, 'compile_seconds': 2.0, 'online_seconds': 1.0, **more}

"""Which method is best? python -m sslax.compare --config=configs/compare.py:digits --workdir=runs/compare

Trains every method and seed of the list with the same encoder, data, budget and probes, one run after the other, and writes one
table: table.md, results.json, compare.html. All runs are checked before the first one starts. The same command goes on where it
was stopped, and nothing is run twice; a method or a seed that is added to the list later becomes one more row or column of it.

  --methods=a,b                                   only these of the list, by name
  --config.methods="('a=FILE.py:PRESET', ...)"    another list; 'a=FILE.py:PRESET method.temperature=0.5' is a variant
  --config.seeds=0,1,2                            mean and standard deviation over seeds
  --config.shared.num_epochs=20                   what all runs have in common: data, batch size, epochs, encoder, probes
  --dry_run                                       check everything, list the runs, start none

Exit codes: 0 every row is there (a run that diverged or failed has a row with the reason), 2 user error, 42 interrupted.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from sslax.run import cli

WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where the runs go (NAME/seed_N, each a workdir of its own), table and page beside.'
)
METHODS = flags.DEFINE_list('methods', [], 'Run only these of config.methods, by name.')
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Stop once everything is checked: nothing is compiled or written.')


def main() -> None:
  from sslax.errors import UserError

  if not WORKDIR.value:
    raise UserError('--workdir is missing: the folder for runs, table and page, for example --workdir=runs/compare')
  from sslax.run.faults import StopRequest

  with StopRequest() as early:  # a signal during the imports ends the comparison in order, too
    from sslax import comparison

    cli.start_jax()
    file = pathlib.Path(config_flags.get_config_filename(flags.FLAGS['config']))
    workdir = pathlib.Path(WORKDIR.value).expanduser().absolute()
    job = comparison.Comparison(flags.FLAGS.config, file, workdir, only=METHODS.value)
    with comparison.Stop(early.signal) as stop:
      job.run(stop, dry_run=DRY_RUN.value)


if __name__ == '__main__':
  cli.define_config()
  flags.declare_key_flag('config')  # so that --help shows it
  cli.run(main)

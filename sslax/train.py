"""Pre-train an encoder: python -m sslax.train --config=configs/simclr.py:digits --workdir=runs/digits

Run it again to go on where it stopped. Exit codes: 0 done, 2 user error, 3 diverged, 42 interrupted with the state saved,
170 stalled or another process lost.
"""

import os
import pathlib
import socket

from absl import flags

from sslax.run import cli

WORKDIR = flags.DEFINE_string('workdir', None, 'Where config, checkpoints, metrics and status go. The same workdir resumes.')
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Stop after the summary: everything is checked, nothing is compiled or written.')


def main() -> None:
  import jax

  from sslax.run.faults import StopRequest

  with StopRequest() as stop:  # first of all: a SIGTERM during imports or compilation ends the run in order, too
    cli.start_jax()
    from sslax.evaluation.online import online_knn
    from sslax.run import config as configs
    from sslax.run import loop
    from sslax.run.prepare import prepare
    from sslax.run.summary import summary

    config = flags.FLAGS.config
    workdir = _workdir(WORKDIR.value, dry_run=DRY_RUN.value)
    configs.refuse_other(config, workdir)
    run = prepare(config, workdir)
    if loop.finished(workdir, run.total_steps) and not DRY_RUN.value:
      print(f'{workdir}: finished, {run.total_steps} steps; evaluate it with: python -m sslax.evaluate --workdir={workdir}')
      return
    online = online_knn(run)
    lowered = run.lower()
    if jax.process_index() == 0:
      print(f'{workdir}\n{summary(run, lowered)}', flush=True)
    if DRY_RUN.value:
      print('dry run: nothing compiled, nothing written')
      return
    loop.train(run, lowered, workdir, stop, online)
    print(f'done: {workdir}')


def _workdir(value: str | None, *, dry_run: bool) -> pathlib.Path:
  from sslax.errors import UserError

  if not value:
    raise UserError('--workdir is missing: the folder for config, checkpoints and metrics, for example --workdir=runs/first')
  workdir = pathlib.Path(value).expanduser().absolute()
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f'--workdir={workdir} is a file')
  if not dry_run:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      probe = workdir / f'.writable.{socket.gethostname()}.{os.getpid()}'  # several processes do this at the same time
      probe.touch()
      probe.unlink()
    except OSError as error:
      raise UserError(f'--workdir={workdir} cannot be written: {error}') from None
  return workdir


if __name__ == '__main__':
  cli.define_config()
  for name in ('config', 'coordinator', 'num_processes', 'process_id'):  # so that --help shows them
    flags.declare_key_flag(name)
  cli.run(main)

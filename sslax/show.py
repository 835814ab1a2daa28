"""Look at the pretext task: python -m sslax.show --config=configs/simclr.py:digits --out=views.png

Draws records of the training set and the views that the method makes of them, as the loss sees them.
"""

import pathlib

from absl import flags

from sslax.run import cli

OUT = flags.DEFINE_string('out', 'views.png', 'The picture to write: .png, .jpg or .webp.')
IMAGES = flags.DEFINE_integer('images', 8, 'Rows of the sheet.', lower_bound=1, upper_bound=64)
SEED = flags.DEFINE_integer('seed', 0, 'Of the choice of records and of the views.')


def main() -> None:
  cli.start_jax()
  import jax

  from sslax import contract
  from sslax.data import pipeline
  from sslax.data.sources import open_source
  from sslax.errors import UserError
  from sslax.evals.views import views_sheet
  from sslax.run import config as configs
  from sslax.run.prepare import build_method

  out = pathlib.Path(OUT.value).expanduser()
  if out.suffix.lower() not in ('.png', '.jpg', '.jpeg', '.webp'):
    raise UserError(f'--out={out}: the name must end in .png, .jpg or .webp')
  if not out.absolute().parent.is_dir():
    raise UserError(f'--out={out}: there is no folder {out.absolute().parent}')
  config = flags.FLAGS.config
  configs.check(config, jax.device_count())
  method = build_method(config)
  source = open_source(config.data.train)
  pipeline.check(source, IMAGES.value)
  pipeline.probe(source, method.inputs())
  checked = contract.check(method, configs.facts(config, len(source), source.num_classes), microbatches=config.microbatches)
  picture = views_sheet(checked.method, source, rows=IMAGES.value, seed=SEED.value)
  picture.save(out)
  print(f'{out}: {IMAGES.value} records of {config.data.train} and their views, {picture.width}x{picture.height} pixels')


if __name__ == '__main__':
  cli.define_config()
  flags.declare_key_flag('config')  # so that --help shows it
  cli.run(main)

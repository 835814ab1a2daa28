"""SimMIM (Xie et al. 2022, https://arxiv.org/abs/2111.09886).

Presets: digits, tiny_imagenet_cpu, imagenet.
"""

from sslax import recipes
from sslax.methods.simmim import SimMIM
from sslax.models.vit import ViT
from sslax.ops.views import RandomViews
from sslax.run.optim import EXCLUDE, AdamW, Multistep
from sslax.spec import spec

PLAIN = dict(count=1, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)  # one crop and perhaps a flip


def adamw(learning_rate, **changes):
  """AdamW with weight decay 0.05 on kernels and positions, gradients clipped at 5."""
  fields = dict(weight_decay=0.05, clip_norm=5.0, exclude=EXCLUDE + r'|(^|/)cls$|^mask_token$')
  return spec(AdamW, learning_rate=learning_rate, **{**fields, **changes})


def digits(config):
  """Handwritten digits on two CPU cores, minutes: 9 units of 4 pixels, of which 6 are removed, in patches of 2.

  python -m sslax.train --config=configs/simmim.py:digits --workdir=runs/simmim_digits

  Status: not yet measured.
  """
  recipes.digits(config, epochs=150.0)
  config.method = spec(
    SimMIM,
    encoder=spec(ViT, width=64, depth=4, heads=4, patch=2, pool='mean'),
    augment=recipes.digits_views(**PLAIN),
    mask_unit=4,
  )
  config.optim = adamw(2e-3, scaling='none', warmup='5%')


def tiny_imagenet_cpu(config):
  """A small ViT on 64-pixel photos, two CPU cores: 16 units of 16 pixels, of which 10 are removed, in patches of 8.

  python -m sslax.train --config=configs/simmim.py:tiny_imagenet_cpu --workdir=runs/simmim_tiny_imagenet \\
      --config.data.train='parquet:/data/tiny_imagenet_50/train-*' \\
      --config.data.test='parquet:/data/tiny_imagenet_50/validation-*'

  Status: shape-checked, not yet run.
  """
  config.data.train, config.data.test = 'parquet:/data/tiny_imagenet_50/train-*', 'parquet:/data/tiny_imagenet_50/validation-*'
  config.batch_size, config.num_epochs = 128, 12.0
  config.method = spec(
    SimMIM,
    encoder=spec(ViT, width=192, depth=6, heads=3, patch=8, pool='mean'),
    augment=spec(RandomViews, **PLAIN, size=64, area=(0.2, 1.0), interpolation='bilinear', **recipes.IMAGENET),
    mask_unit=16,
  )
  config.optim = adamw(1e-3, scaling='none', warmup='5%')
  config.checkpoint.every_steps = 500
  config.online.every_steps = 500


def imagenet(config):
  """ViT-B/16, 800 epochs: fine-tuned 83.8 (Xie et al. 2022, table 6).

  python -m sslax.train --config=configs/simmim.py:imagenet --workdir=runs/simmim_imagenet

  The official code: batch 2048, AdamW 1e-4 x batch / 512, weight decay 0.05, gradients clipped at 5, 10 epochs of warm-up, a
  tenth of the rate from epoch 700 on, drop path 0.1, crops from 0.67 and flips. Their ViT has a relative position bias that
  all layers share and no absolute positions; ours has learnt absolute ones. Fine-tuning: configs/mae.py:imagenet_finetune with
  --config.method.encoder.positions=learnt and the rate 1.25e-3 x batch / 512.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=2048, epochs=800.0)
  config.method = spec(
    SimMIM,
    encoder=spec(ViT, variant='B', drop_path=0.1, scan=True, dtype='bfloat16'),
    augment=spec(RandomViews, **PLAIN, area=(0.67, 1.0), **recipes.IMAGENET),
    image=recipes.photos(),
  )
  config.optim = adamw(1e-4, reference_batch=512, warmup='10 epochs', schedule=spec(Multistep, milestones=('700 epochs',)))


PRESETS = recipes.presets(digits, tiny_imagenet_cpu, imagenet)
get_config = recipes.get_config(PRESETS)

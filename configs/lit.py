"""LiT (Zhai et al. 2021, https://arxiv.org/abs/2111.07991): CLIP with a locked image tower that was trained before.

Presets: digits, imagenet.
"""

from sslax import recipes
from sslax.inputs.image import Image
from sslax.inputs.text import Text
from sslax.methods.clip import CLIP
from sslax.models.text import TextTransformer
from sslax.models.vit import ViT
from sslax.ops.views import RandomViews
from sslax.run.optim import AdamW
from sslax.spec import spec


def digits(config):
  """A text tower for SimCLR's encoder of handwritten digits, two CPU cores, minutes.

  python -m sslax.train --config=configs/simclr.py:digits --workdir=runs/digits
  python -m sslax.train --config=configs/lit.py:digits --workdir=runs/lit_digits --config.graft="('runs/digits',)"

  Status: not yet measured.
  """
  recipes.digits(config, epochs=60.0)
  config.data.train, config.data.test = 'digits:captions@train', 'digits:captions@test'
  config.method = spec(
    CLIP,
    encoder=recipes.digits_encoder(),
    text=spec(
      TextTransformer, width=64, depth=2, heads=4, vocab_size=259, length=40, causal=False, pool='mean', weight_init='mae'
    ),
    head=recipes.mlp(64),
    text_head=recipes.mlp(64),
    augment=recipes.digits_views(count=1),
    temperature=0.1,
    max_scale=0.0,
    freeze_image=True,
    caption=spec(Text, tokenizer='bytes', length=40),
  )
  config.optim.freeze = '^encoder/'


def imagenet(config):
  """ViT-B/16 locked, a text tower of the same size: ImageNet zero-shot 73.9 (README of big_vision, mixed_B16B_2).

  python -m sslax.train --config=configs/lit.py:imagenet --workdir=runs/lit_b16 \\
      --config.data.train='tar:gs://BUCKET/cc12m/{00000..01242}.tar' --config.graft="('encoder=vit_b16_in21k.safetensors',)"

  That model was trained for 60,000 steps on CC12M and YFCC100M, over a ViT of ImageNet-21k, without a head on the images. Batch
  16,384, rate 1e-3, decay 1e-4 (0.1 where it is multiplied by the rate), 10,000 steps of warm-up, initial temperature 0.1 without
  bounds; AdamW for their Adafactor, CLIP's BPE for their WordPiece.
  Status: shape-checked, not yet run.
  """
  config.data.train, config.data.test = 'tar:/data/cc12m/*.tar', 'tfds:imagenet2012@validation'
  config.batch_size, config.num_steps = 16384, 60_000
  config.method = spec(
    CLIP,
    encoder=spec(ViT, variant='B', scan=True, dtype='bfloat16'),
    text=spec(
      TextTransformer,
      width=768,
      heads=12,
      length=16,
      causal=False,
      pool='cls',
      weight_init='mae',
      scan=True,
      remat='full',
      dtype='bfloat16',
    ),
    text_head=recipes.mlp(768, final_bias=False),
    augment=spec(
      RandomViews,
      count=1,
      area=(0.9, 1.0),
      flip=0.0,
      jitter_prob=0.0,
      gray_prob=0.0,
      blur_prob=0.0,
      mean=(0.5,) * 3,
      std=(0.5,) * 3,
    ),
    temperature=0.1,
    max_scale=0.0,
    freeze_image=True,
    caption=spec(Text, tokenizer='bpe', length=16),
    image=spec(Image, crop_on='host'),
  )
  config.optim = spec(
    AdamW,
    learning_rate=1e-3,
    scaling='none',
    warmup='10000 steps',
    weight_decay=0.1,
    clip_norm=1.0,
    freeze='^encoder/',
  )


PRESETS = recipes.presets(digits, imagenet)
get_config = recipes.get_config(PRESETS)

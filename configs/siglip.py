"""SigLIP (Zhai et al. 2023, https://arxiv.org/abs/2303.15343).

Presets: digits, fashion_cpu, imagenet.
"""

from sslax import recipes
from sslax.inputs.image import Image
from sslax.inputs.text import Text
from sslax.methods.siglip import SigLIP
from sslax.models.resnet import ResNet
from sslax.models.text import TextTransformer
from sslax.models.vit import ViT
from sslax.ops.views import RandomViews
from sslax.run.optim import AdamW
from sslax.spec import spec


def linear(width, embed):
  """A tower's projection into the joint space."""
  return recipes.mlp(embed, kernel_init=f'normal_{width**-0.5:.6f}')


def crop(**changes):
  """A crop of nearly the whole image, in [-1, 1]."""
  fields = dict(
    count=1, area=(0.9, 1.0), flip=0.0, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0, mean=(0.5,) * 3, std=(0.5,) * 3
  )
  return spec(RandomViews, **{**fields, **changes})


def text(**changes):
  """A text tower that sees both ways."""
  return spec(TextTransformer, **{**dict(causal=False, weight_init='mae', eps=1e-6), **changes})


def digits(config):
  """Handwritten digits and captions such as 'a picture of the number seven', two CPU cores, minutes.

  python -m sslax.train --config=configs/siglip.py:digits --workdir=runs/siglip_digits

  Status: measured on 2026-11-22, one seed: zero-shot 0.776 (chance 0.100), 5 labels a class 0.923; raw pixels 0.845.
  """
  recipes.digits(config, epochs=60.0)
  config.data.train, config.data.test = 'digits:captions@train', 'digits:captions@test'
  config.method = spec(
    SigLIP,
    encoder=recipes.digits_encoder(),
    text=text(width=64, depth=2, heads=4, vocab_size=259, length=40, pool='mean'),
    head=linear(64, 64),
    text_head=linear(64, 64),
    augment=recipes.digits_views(count=1),
    caption=spec(Text, tokenizer='bytes', length=40),
  )


def fashion_cpu(config):
  """Shop photos of 60x80 pixels and their product titles, some 7,000, two CPU cores, at most 20 minutes.

  python -m sslax.train --config=configs/siglip.py:fashion_cpu --workdir=runs/siglip_fashion \\
      --config.data.train='tar:/data/fashion_captions/train-{00000..00001}.tar?label=label' \\
      --config.data.test='tar:/data/fashion_captions/test-00000.tar?label=label'

  Status: measured on 2026-11-22 with --config.num_epochs=12, one seed, on the 1,594 test photos: zero-shot over 40 types 0.144,
  among five 0.492 (chance 0.025, 0.125); image R@10 0.109, text R@10 0.110 (chance 0.006); the loss was still falling.
  """
  config.data.train, config.data.test = 'tar:/data/fashion_captions/train-*.tar', 'tar:/data/fashion_captions/test-*.tar'
  config.batch_size, config.num_epochs = 256, 30.0
  config.method = spec(
    SigLIP,
    encoder=spec(ResNet, depth=18, stages=(1, 1, 1, 1), base=16),
    text=text(width=64, depth=2, heads=4, vocab_size=259, length=56, pool='mean'),
    head=linear(128, 64),
    text_head=linear(64, 64),
    augment=crop(size=64, area=(0.6, 1.0), flip=0.5),
    caption=spec(Text, tokenizer='bytes', length=56),
  )
  config.optim = spec(AdamW, learning_rate=2e-3, scaling='none', warmup='5%', weight_decay=0.1, b2=0.95, eps=1e-6)
  config.checkpoint.every_steps = 200


def imagenet(config):
  """ViT-B/16 at 224 pixels: ImageNet zero-shot 76.2, COCO R@1 64.4 / 47.2 (README of big_vision).

  python -m sslax.train --config=configs/siglip.py:imagenet --workdir=runs/siglip_b16 \\
      --config.data.train='tar:gs://BUCKET/pairs/{00000..41407}.tar'

  The paper: batch 32,768, text of 16 tokens, second beta 0.95; the rate 1e-3 and the decay 1e-4 (big_vision does not multiply it
  by the rate, so 0.1 here) are those of its configs. What differs: AdamW for their Adafactor, the mean of the patches for the
  attention head, CLIP's BPE for SentencePiece with 32,000 pieces, 9 billion pairs of public data for WebLI.
  Status: shape-checked, not yet run.
  """
  config.data.train, config.data.test = 'tar:/data/pairs/*.tar', 'tfds:imagenet2012@validation'
  config.batch_size, config.num_steps = 32768, 274_658
  config.method = spec(
    SigLIP,
    encoder=spec(ViT, variant='B', pool='mean', class_token=False, weight_init='mae', scan=True, remat='full', dtype='bfloat16'),
    text=text(width=768, heads=12, length=16, pool='last', scan=True, remat='full', dtype='bfloat16'),
    text_head=linear(768, 768),
    augment=crop(),
    caption=spec(Text, tokenizer='bpe', length=16),
    image=spec(Image, crop_on='host'),
  )
  config.optim = spec(
    AdamW,
    learning_rate=1e-3,
    scaling='none',
    warmup='10000 steps',
    weight_decay=0.1,
    b2=0.95,
    clip_norm=1.0,
  )


PRESETS = recipes.presets(digits, fashion_cpu, imagenet)
get_config = recipes.get_config(PRESETS)

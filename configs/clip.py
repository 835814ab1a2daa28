"""CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

Presets: digits, fashion_cpu, openai_b32 (also as imagenet), openai_rn50.
"""

from sslax import recipes
from sslax.inputs.image import Image
from sslax.inputs.text import Text
from sslax.methods.clip import CLIP
from sslax.models.resnet import ResNet
from sslax.models.resnet_clip import ModifiedResNet
from sslax.models.text import TextTransformer
from sslax.models.vit import ViT
from sslax.ops.views import RandomViews
from sslax.run.optim import AdamW
from sslax.spec import spec

PIXELS = dict(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))


def linear(width, embed):
  """A tower's projection into the joint space: no bias, N(0, 1 / width)."""
  return recipes.mlp(embed, final_bias=False, kernel_init=f'normal_{width**-0.5:.6f}')


def crop(**changes):
  """open_clip's only augmentation: a crop of nearly the whole image. No flip: captions say left and right."""
  fields = dict(count=1, area=(0.9, 1.0), flip=0.0, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0, **PIXELS)
  return spec(RandomViews, **{**fields, **changes})


def byte_text(width, depth, **changes):
  """A small text tower over bytes, which need no vocabulary."""
  return spec(TextTransformer, **{**dict(width=width, depth=depth, heads=4, vocab_size=259), **changes})


def digits(config):
  """Handwritten digits and captions such as 'a picture of the number seven', two CPU cores, minutes.

  python -m sslax.train --config=configs/clip.py:digits --workdir=runs/clip_digits

  A batch of 128 holds each digit a dozen times, so most of what a caption is told from describes another image as well: the loss
  cannot come near 0.
  Status: measured on 2026-11-22, one seed: zero-shot 0.962 (--probes=zeroshot --templates=digits; chance 0.100, random towers
  0.102), kNN 0.974.
  """
  recipes.digits(config, epochs=60.0)
  config.data.train, config.data.test = 'digits:captions@train', 'digits:captions@test'
  config.method = spec(
    CLIP,
    encoder=recipes.digits_encoder(),
    text=byte_text(64, 2, length=40),
    head=linear(64, 64),
    text_head=linear(64, 64),
    augment=recipes.digits_views(count=1),
    caption=spec(Text, tokenizer='bytes', length=40),
  )


def fashion_cpu(config):
  """Shop photos of 60x80 pixels and their product titles, some 7,000, two CPU cores, at most 20 minutes.

  python -m sslax.train --config=configs/clip.py:fashion_cpu --workdir=runs/clip_fashion \\
      --config.data.train='tar:/data/fashion_captions/train-{00000..00001}.tar?label=label' \\
      --config.data.test='tar:/data/fashion_captions/test-00000.tar?label=label'

  Status: measured on 2026-11-22, one seed, on the 1,594 test photos: zero-shot over 40 types 0.242, among five 0.512
  (--probes=zeroshot --templates=fashion; chance 0.025); image R@10 0.499, text R@10 0.479 (chance 0.006); linear 0.725 (raw
  pixels 0.697, random encoder 0.379).
  """
  config.data.train, config.data.test = 'tar:/data/fashion_captions/train-*.tar', 'tar:/data/fashion_captions/test-*.tar'
  config.batch_size, config.num_epochs = 256, 30.0
  config.method = spec(
    CLIP,
    encoder=spec(ResNet, depth=18, stages=(1, 1, 1, 1), base=16),
    text=byte_text(64, 2, length=56),
    head=linear(128, 64),
    text_head=linear(64, 64),
    augment=crop(size=64, area=(0.6, 1.0), flip=0.5),
    caption=spec(Text, tokenizer='bytes', length=56),
  )
  config.optim = spec(AdamW, learning_rate=2e-3, scaling='none', warmup='5%', weight_decay=0.1, b2=0.98, eps=1e-6)
  config.checkpoint.every_steps = 200


def openai_b32(config):
  """ViT-B/32 on 400 million pairs: ImageNet zero-shot 63.3 with the 80 templates (open_clip's evaluation of OpenAI's weights).

  python -m sslax.train --config=configs/clip.py:openai_b32 --workdir=runs/clip_b32 \\
      --config.data.train='tar:gs://BUCKET/laion400m/{00000..41407}.tar'

  The paper, section 2.5 and tables 18-20: batch 32,768, 32 epochs of 400 million pairs (as steps, whatever the data), AdamW 5e-4
  with betas 0.9 and 0.98 and epsilon 1e-6, decoupled weight decay 0.2 except on gains and biases, 2,000 steps of warm-up, cosine
  to 0. The pairs are not public; on LAION-400M open_clip reports 62.9 (batch 32,768, QuickGELU).
  Status: shape-checked, not yet run.
  """
  _openai(config)
  config.method = spec(
    CLIP,
    encoder=vit(variant='B', patch=32),
    text=spec(TextTransformer, activation='quick_gelu', scan=True, remat='full', dtype='bfloat16'),
    head=linear(768, 512),
    text_head=linear(512, 512),
    augment=crop(),
    image=spec(Image, crop_on='host'),
    caption=spec(Text, tokenizer='bpe'),
  )


def openai_rn50(config):
  """The modified ResNet-50 on 400 million pairs: ImageNet zero-shot 59.8 (open_clip's evaluation of OpenAI's weights).

  python -m sslax.train --config=configs/clip.py:openai_rn50 --workdir=runs/clip_rn50 \\
      --config.data.train='tar:gs://BUCKET/laion400m/{00000..41407}.tar'

  As `openai_b32`, with a second beta of 0.999 and epsilon 1e-8.
  Status: shape-checked, not yet run.
  """
  _openai(config)
  config.method = spec(
    CLIP,
    encoder=spec(ModifiedResNet, dtype='bfloat16'),
    text=spec(TextTransformer, activation='quick_gelu', scan=True, remat='full', dtype='bfloat16'),
    text_head=linear(512, 1024),
    augment=crop(),
    image=spec(Image, crop_on='host'),
    caption=spec(Text, tokenizer='bpe'),
  )
  config.optim.b2, config.optim.eps = 0.999, 1e-8


def vit(**changes):
  """OpenAI's image tower: a norm before the blocks, no bias in the patches, QuickGELU."""
  fields = dict(pre_norm=True, patch_bias=False, eps=1e-5, activation='quick_gelu', weight_init='clip')
  return spec(ViT, **{**fields, **dict(scan=True, remat='full', dtype='bfloat16'), **changes})


def _openai(config):
  """Data, length and optimizer of the paper."""
  config.data.train, config.data.test = 'tar:/data/laion400m/*.tar', 'tfds:imagenet2012@validation'
  config.batch_size, config.num_steps = 32768, 390_625
  config.optim = spec(
    AdamW,
    learning_rate=5e-4,
    scaling='none',
    warmup='2000 steps',
    weight_decay=0.2,
    b2=0.98,
    eps=1e-6,
    exclude=r'(bias|scale\d*|cls)$',
  )


PRESETS = recipes.presets(digits, fashion_cpu, openai_b32, openai_rn50, imagenet=openai_b32)
get_config = recipes.get_config(PRESETS)

"""CLIP on digits with towers that compile in seconds: 12 pixels."""

from sslax import recipes
from sslax.inputs.text import Text
from sslax.methods.clip import CLIP
from sslax.models.text import TextTransformer
from sslax.models.vit import ViT
from sslax.spec import spec


def get_config(preset: str = ''):
  del preset
  config = recipes.base_config()
  recipes.digits(config, learning_rate=2e-3)
  config.optim.warmup = '40 steps'
  config.num_epochs, config.num_steps, config.online.every_steps = 0.0, 200, 0
  config.data.train, config.data.test = 'digits:captions@train', 'digits:captions@test'
  config.method = spec(
    CLIP,
    encoder=spec(ViT, width=32, depth=1, heads=2, patch=4, pool='mean', weight_init='mae', positions='sincos_mae'),
    text=spec(
      TextTransformer, width=32, depth=1, heads=2, vocab_size=259, length=32, causal=False, pool='mean', weight_init='mae'
    ),
    head=recipes.mlp(32, final_bias=False, kernel_init='normal_0.18'),
    text_head=recipes.mlp(32, final_bias=False, kernel_init='normal_0.18'),
    augment=recipes.digits_views(count=1),
    caption=spec(Text, tokenizer='bytes', length=32),
    temperature=0.3,  # 0.07 takes longer than a test has
  )
  return config

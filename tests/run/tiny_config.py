"""A real run that takes seconds: SimCLR with a tiny ResNet on the digits. --config=tests/run/tiny_config.py"""

from sslax.inputs.image import Image
from sslax.methods.simclr import SimCLR
from sslax.models.mlp import MLP
from sslax.models.resnet import ResNet
from sslax.ops.views import RandomViews
from sslax.run.config import base_config
from sslax.run.optim import Sgd
from sslax.spec import spec


def get_config(preset=''):
  config = base_config()
  config.batch_size, config.num_steps = 32, 40
  config.method = spec(
    SimCLR,
    encoder=spec(ResNet, depth=18, stem='cifar', stages=(1, 1), base=8),
    head=spec(MLP, features=(16, 8), final_norm='bn'),
    augment=spec(RandomViews, size=8, area=(0.5, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.0, 0.0), gray_prob=0.0, blur_prob=0.0),
    image=spec(Image, size=8),
  )
  config.optim = spec(Sgd, learning_rate=0.1, scaling='none', warmup='5 steps', weight_decay=1e-4)
  config.checkpoint.every_steps, config.checkpoint.keep = 5, 2
  if preset == 'photos':
    config.method.image.crop_on = 'host'
  return config

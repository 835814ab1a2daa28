"""Weights of torchvision, timm, MAE, CLIP and transformers, from safetensors files. No PyTorch, no pickle."""

from sslax.models.import_torch.clip import clip, clip_transformers
from sslax.models.import_torch.encoder import encoder
from sslax.models.import_torch.fill import load
from sslax.models.import_torch.mae import mae, mae_transformers
from sslax.models.import_torch.resnet import resnet
from sslax.models.import_torch.vit import vit

__all__ = ['clip', 'clip_transformers', 'encoder', 'load', 'mae', 'mae_transformers', 'resnet', 'vit']

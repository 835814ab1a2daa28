"""Audio-MAE (Huang et al. 2022, https://arxiv.org/abs/2207.06405).

Presets: spoken_digits_cpu, environment_sounds_cpu, audioset.
"""

from sslax import recipes
from sslax.inputs.waveform import Waveform
from sslax.methods.audio_mae import AudioMAE, Transposed
from sslax.models.local_decoder import LocalDecoder
from sslax.models.vit import ViT
from sslax.run.optim import AdamW
from sslax.spec import spec


def encoder(**changes):
  """Fixed positions and Xavier uniform weights, as in the official code."""
  return spec(ViT, **{**dict(positions='sincos_mae', weight_init='mae'), **changes})


def adamw(learning_rate, **changes):
  """AdamW as in the official code: b2 = 0.95, weight decay 1e-4 on all but vectors."""
  return spec(AdamW, learning_rate=learning_rate, **{**dict(b2=0.95, weight_decay=1e-4), **changes})


def spoken_digits_cpu(config):
  """Ten spoken words of four speakers, 2,000 recordings of half a second, two CPU cores, minutes; tested on two others.

  python -m sslax.train --config=configs/audio_mae.py:spoken_digits_cpu --workdir=runs/audio_mae_digits \\
      --config.data.train='tar:/data/spoken_digits/train-*.tar' --config.data.test='tar:/data/spoken_digits/test-*.tar'

  A patch is 20 ms of all bands, 6 of 32 are seen: the mean of the tokens then still says which bands there were.

  python -m sslax.evaluate --workdir=runs/audio_mae_digits --probes=knn,linear

  Status: measured on 2026-11-28, 2 CPU cores shared with others, one seed, two speakers that were not in training: kNN 0.626
  (mean spectrum 0.543, random encoder 0.333), linear 0.804 (0.693 and 0.705). Four minutes of CPU time. The patch was
  chosen by these scores (40 ms: 0.568 and 0.721): a part of the lead is selection.
  """
  config.data.train, config.data.test = 'tar:/data/spoken_digits/train-*.tar', 'tar:/data/spoken_digits/test-*.tar'
  config.batch_size, config.num_epochs = 64, 64.0
  config.method = spec(
    AudioMAE,
    encoder=encoder(width=96, depth=4, heads=4, patch=(2, 64), pool='mean'),
    decoder=spec(LocalDecoder, width=48, depth=2, heads=4, patch=(2, 64)),
    mels=64,
    frames=64,
    roll=False,
    rms=0.1,
    mean=-7.9,
    std=6.0,
    waveform=spec(Waveform, seconds=0.655, rate=8000, keep_seconds=0.5),
  )
  config.optim = adamw(2e-3, scaling='none', warmup='5%')
  config.checkpoint.every_steps = 500
  config.online.every_steps = 500


def environment_sounds_cpu(config):
  """Ten kinds of sounds, rain or a crying baby, 320 recordings of 5 seconds, two CPU cores, minutes; tested on a fold of 80.

  python -m sslax.train --config=configs/audio_mae.py:environment_sounds_cpu --workdir=runs/audio_mae_sounds \\
      --config.data.train='tar:/data/environment_sounds/train-*.tar' --config.data.test='tar:/data/environment_sounds/test-*.tar'

  A patch is 80 ms of all bands up to 4 kHz, 12 of 64 are seen; what is heard does not depend on where it begins, hence the roll.

  python -m sslax.evaluate --workdir=runs/audio_mae_sounds --probes=knn,linear

  Status: measured on 2026-11-28, 2 CPU cores shared with others, one seed: kNN 0.550 (mean spectrum 0.362, random encoder 0.512),
  linear 0.650 (0.500 and 0.675). With 80 test recordings, what is gained over the random encoder is within chance, and with the
  linear probe nothing is. Three minutes of CPU time.
  """
  config.data.train, config.data.test = 'tar:/data/environment_sounds/train-*.tar', 'tar:/data/environment_sounds/test-*.tar'
  config.batch_size, config.num_epochs = 16, 75.0
  config.method = spec(
    AudioMAE,
    encoder=encoder(width=96, depth=4, heads=4, patch=(8, 64), pool='mean'),
    decoder=spec(LocalDecoder, width=48, depth=2, heads=4, patch=(8, 64)),
    mels=64,
    frames=512,
    rms=0.1,
    mean=-6.1,
    std=5.6,
    waveform=spec(Waveform, seconds=5.0, rate=8000, keep_seconds=5.0),
  )
  config.optim = adamw(2e-3, scaling='none', warmup='5%')
  config.checkpoint.every_steps = 500
  config.online.every_steps = 500


def audioset(config):
  """ViT-B/16 on 2 million clips of 10 seconds, 32 epochs; fine-tuned the official code gives 47.3 mAP, on AS-20K 37.0.

  python -m sslax.train --config=configs/audio_mae.py:audioset --workdir=runs/audio_mae_audioset \\
      --config.data.train='tar:gs://BUCKET/audioset/{00000..02047}.tar'

  The paper and the official code, submit_pretrain_audioset2M.sh: batch 512, AdamW 2e-4 x batch / 256, b2 0.95, weight
  decay 1e-4, 3 epochs of warm-up, 512 patches of which 102 are seen, the local decoder. The circular shift of the paper is
  none in that code (`AudioMAE.roll`), and positions are those of its published weights (`Transposed`).
  Status: shape-checked, not yet run.
  """
  config.data.train, config.data.test = 'tar:/data/audioset/train-*.tar', ''
  config.batch_size, config.num_epochs = 512, 32.0  # the script says 33
  config.method = spec(
    AudioMAE,
    encoder=encoder(variant='B', positions=spec(Transposed), scan=True, dtype='bfloat16'),
    decoder=spec(LocalDecoder, positions=spec(Transposed), dtype='bfloat16'),
    roll=False,
  )
  config.optim = adamw(2e-4, warmup='3 epochs')


PRESETS = recipes.presets(spoken_digits_cpu, environment_sounds_cpu, audioset)
get_config = recipes.get_config(PRESETS)

"""Causal language models: GPT-2's network (Radford et al. 2018 and 2019).

Presets: shakespeare_cpu, gpt2.
"""

from sslax import recipes
from sslax.inputs.tokens import Tokens
from sslax.methods.causal_lm import CausalLM
from sslax.models.text import TextTransformer
from sslax.run.optim import AdamW, Cosine
from sslax.spec import spec


def encoder(**changes):
  """Pre-norm, learnt positions, the tanh approximation of GELU, the initial weights of the official code."""
  return spec(TextTransformer, pool='last', activation='gelu_tanh', weight_init='gpt2', **changes)


def adamw(learning_rate, warmup):
  """nanoGPT's: b2 0.95, a tenth of the rate at the end, weight decay 0.1 on all but biases and scales: also on the embeddings."""
  return spec(
    AdamW,
    learning_rate=learning_rate,
    scaling='none',
    warmup=warmup,
    schedule=spec(Cosine, end_fraction=0.1),
    b2=0.95,
    weight_decay=0.1,
    clip_norm=1.0,
  )


def shakespeare_cpu(config):
  """0.8 million parameters, bytes, on a megabyte of Shakespeare: two CPU cores, some 10 minutes.

  python -m sslax.train --config=configs/causal_lm.py:shakespeare_cpu --workdir=runs/lm_shakespeare \\
      --config.data.train='text:/data/shakespeare/input.txt?bytes=4096@[:245]' \\
      --config.data.test='text:/data/shakespeare/input.txt?bytes=128@[7840:]'
  python -m sslax.evaluate --workdir=runs/lm_shakespeare --probes=bits_per_byte

  Training draws windows of 128 bytes from pieces of 4096; evaluation takes the first 128 bytes of each piece, so pieces of 128
  leave nothing out. The two cuts of the file meet at byte 245 x 4096 = 7840 x 128, nine tenths of it: percents of pieces of two
  sizes ([:90%] and [90%:]) do not, and would put 3,584 bytes into both sets.
  Status: 2.699 bits per byte of the 111,874 bytes held out (perplexity of a byte 6.49) after 1,000 steps, one seed; byte
  histogram 4.829, random encoder 8.029; 27 minutes on two cores that were shared with other work, 26.8 texts/s (10 minutes)
  without (2026-11-28, 2 CPU cores).
  """
  config.data.train = 'text:/data/shakespeare/input.txt?bytes=4096@[:245]'
  config.data.test = 'text:/data/shakespeare/input.txt?bytes=128@[7840:]'
  config.batch_size, config.num_steps = 16, 1000
  config.method = spec(
    CausalLM,
    encoder=encoder(width=128, depth=4, heads=4, vocab_size=258, length=128),
    text=spec(Tokens, length=128),
  )
  config.optim = adamw(3e-3, warmup='5%')
  config.checkpoint.every_steps = 500


def gpt2(config):
  """GPT-2 with 124 million parameters, batches of 512 texts of 1,024 tokens; nanoGPT ends at 2.85 nats a token (OpenWebText).

  python -m sslax.data.train_bpe --data='text:/data/openwebtext/some/*.txt' --vocab_size=50257 --out=/data/gpt2/tokenizer.json
  python -m sslax.train --config=configs/causal_lm.py:gpt2 --workdir=runs/gpt2 --config.microbatches=8
  python -m sslax.evaluate --workdir=runs/gpt2 --probes=bits_per_byte

  The recipe is that of karpathy/nanoGPT (train.py, config/train_gpt2.py): AdamW 6e-4 falling to 6e-5, b2 0.95, decay 0.1,
  gradients cut at norm 1, 2,000 steps of warm-up, no dropout, 600,000 steps; its batch is 480 texts. OpenAI's weights, fine-tuned
  there, reach 2.85, too (its README). The paper of 2018 has 2.5e-4, dropout 0.1, batches of 64 x 512; that of 2019 says batch 512
  and no rate. GPT-2's own tokenizer.json has 50,257 ids, too; with another number: --config.method.text.size=0. The table has
  50,304 rows, a multiple of 128. Pieces of 2 KB should hold less than 1,024 tokens; what does not fit, the probe says.
  Status: shape-checked, not yet run.
  """
  config.data.train = 'text:/data/openwebtext/train/*.txt?bytes=65536'
  config.data.test = 'text:/data/openwebtext/validation/*.txt?bytes=2048'
  config.batch_size, config.num_steps = 512, 600_000
  config.method = spec(
    CausalLM,
    encoder=encoder(width=768, depth=12, heads=12, vocab_size=50304, length=1024, scan=True, remat='full', dtype='bfloat16'),
    text=spec(Tokens, tokenizer='/data/gpt2/tokenizer.json', length=1024, size=50257),
  )
  config.optim = adamw(6e-4, warmup='2000 steps')
  config.eval.batch_size = 16  # the logits of a batch are float32 [16, 1024, 50304]


PRESETS = recipes.presets(shakespeare_cpu, gpt2)
get_config = recipes.get_config(PRESETS)

"""Where things are kept that can be made or fetched again."""

import os
from pathlib import Path


def folder() -> Path:
  """$XDG_CACHE_HOME/sslax, or ~/.cache/sslax; it need not exist yet."""
  home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
  return Path(home) / 'sslax'

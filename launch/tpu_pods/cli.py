"""From words to an exit code."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence

from . import codes, flags
from .errors import Mistake, Stop, say

# Which module has the function of that name; it is imported when it is needed.
MODULES = {
  **dict.fromkeys(('create', 'delete'), 'lifecycle'),
  **dict.fromkeys(('run', 'kill'), 'training'),
  **dict.fromkeys(('status', 'logs', 'ssh'), 'report'),
  **{'setup': 'setup', 'watch': 'watcher', 'doctor': 'doctor'},
}


def main(words: Sequence[str]) -> int:
  """The program; returns its exit code."""
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `launch/tpu logs | head` ends as other programs do
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is temporary is removed
  os.environ['LC_ALL'] = 'C.UTF-8'  # any locale will do for the user, this one for gcloud and git
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(encoding='utf-8', errors='surrogateescape', line_buffering=True)
  try:
    return _run(words)
  except flags.Help as text:
    print(text, end='')
    return codes.DONE
  except Mistake as mistake:
    say(f'error: {mistake}')
    return codes.USER_ERROR
  except Stop as stop:
    if str(stop):
      say(str(stop))
    return stop.code
  except KeyboardInterrupt:
    return 128 + signal.SIGINT


def _run(words: Sequence[str]) -> int:
  line = flags.read(words)
  from . import memory, pod, processes, settings  # after the first look at the line: a typo or --help is answered at once

  home = settings.home(os.environ)
  options = memory.recall(home, line.command, line.given)
  kept = memory.Memory(home, options.name, options.dry_run)
  log = None if options.dry_run else kept.path('commands.log')
  commands = processes.Commands(log, options.dry_run)
  command = getattr(importlib.import_module(f'.{MODULES[line.command]}', __package__), line.command)
  more = [line.rest] if flags.COMMANDS[line.command].rest else []
  return command(pod.Pod(options, kept, commands, settings.Seconds.of(os.environ)), *more)

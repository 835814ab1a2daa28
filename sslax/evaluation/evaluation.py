"""Probes of one run: what has been computed before is read, the rest is computed, once, whoever asks and however often."""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sslax.data.sources import open_source
from sslax.errors import UserError, suggest
from sslax.evals.probe import BASELINE, RANDOM, TRAINED, Card, Data, Probe, Score
from sslax.evaluation import picks
from sslax.evaluation.models import Models
from sslax.evaluation.results import Results, Row
from sslax.evaluation.store import FeatureStore, identity
from sslax.io import digest
from sslax.run import config as configs
from sslax.run.checkpoint import Reader, Vanished
from sslax.run.faults import read_status
from sslax.spec import outside_files


@dataclasses.dataclass(frozen=True)
class Settings:
  """What an evaluation is asked for, beside its probes."""

  data_train: str = ''  # URI; '': that of the run
  data_test: str = ''
  baselines: bool = True  # also what needs no training: the input itself, and the method at random initialisation
  report: bool = True


class Evaluation:
  """Probes of the checkpoints of one workdir."""

  def __init__(self, workdir: pathlib.Path, probes: Mapping[str, Probe], settings: Settings = Settings()):
    """Reads the saved config and what has been evaluated before; computes nothing.

    Raises:
      UserError: no run here, data that cannot be opened or does not fit, or several processes.
    """
    if jax.process_count() > 1:
      raise UserError('evaluation runs in one process: start it with --num_processes=1, on any machine that sees the workdir')
    self.workdir, self.probes, self.settings = workdir, dict(probes), settings
    self.config = configs.load(workdir)
    self.reader, self.results = Reader(workdir), Results(workdir)
    test = settings.data_test or self.config.data.test
    if not test:
      raise UserError('this run has no data.test: name a test set with --data_test=URI')
    train = open_source(settings.data_train or self.config.data.train)
    self.data = Data(train, open_source(test), self.config.data.train)
    self.models = Models(workdir, self.config, train)
    self.shown_step: int | None = None
    self._stores: dict[tuple[str, int], FeatureStore] = {}
    self._said: set[str] = set()
    self._checked = False

  # What to evaluate

  def run(self, step: str) -> None:
    """Evaluates the named step(s): 'latest', 'all', or a number."""
    steps = self.reader.steps()
    if not steps:
      raise UserError(
        f'{self.workdir} holds no checkpoint yet (the run says: '
        f'{read_status(self.workdir).get("reason", "nothing")}); --watch waits for one'
      )
    wanted = steps if step == 'all' else [steps[-1]] if step == 'latest' else [int(step)]
    if wanted[0] not in steps:
      raise UserError(f'there is no checkpoint of step {wanted[0]}; there are {", ".join(map(str, steps))}')
    for number in wanted:
      try:
        self.evaluate(number)
      except Vanished:  # the trainer keeps only the newest: not an error
        print(f'step {number} was deleted by the trainer meanwhile', file=sys.stderr)

  def watch(self, poll_seconds: float, timeout: float) -> None:
    """Evaluates each new checkpoint until the run has ended and its last one is done."""
    done, last_news = set(), time.time()
    print(f'watching {self.workdir}', flush=True)
    while True:
      # Read before the list: no checkpoint can come after.
      ended = read_status(self.workdir).get('reason') in ('done', 'diverged')
      new = [step for step in self.reader.steps() if step not in done]
      for step in new:
        done.add(step)
        try:
          self.evaluate(step)
        except Vanished:
          continue
        last_news = time.time()
        print(f'step {step}: ' + ', '.join(f'{key} {value:.4f}' for key, value in self.headline(step).items()), flush=True)
      if ended and not new:
        return
      if timeout and time.time() - last_news > timeout:
        print(f'no new checkpoint for {timeout:.0f} s', file=sys.stderr)
        return
      if not new:
        time.sleep(poll_seconds)

  def evaluate(self, step: int) -> None:
    """All probes of one checkpoint, and of the baselines, that are not in eval.jsonl yet."""
    self.shown_step = step
    self.compute(self.rows(step))

  def rows(self, step: int) -> list[tuple[str, int]]:
    """The rows of the table of a step, (TRAINED, step) last."""
    return [*([(BASELINE, 0), (RANDOM, 0)] if self.settings.baselines else []), (TRAINED, step)]

  def compute(self, rows: Iterable[tuple[str, int]]) -> None:
    """All probes of these rows that are not in eval.jsonl yet. The trained one first: of a checkpoint that is about to go."""
    ordered = sorted(rows, key=lambda row: row[0] != TRAINED)
    for row, step in ordered:
      for name, probe in self.probes.items():
        if row not in probe.needs().rows or (row == BASELINE and not self.baseline_name()):
          continue
        if self.find(row, step, name) is None:
          self._check()  # all probes, before any takes its time
          self._compute(row, step, name, probe)

  def _compute(self, row: str, step: int, name: str, probe: Probe) -> None:
    store = self.store(row, step)
    print(f'{name} probe of {store.name if row != TRAINED else TRAINED} ...', file=sys.stderr, flush=True)
    started = time.time()
    scores = checked_scores(probe.run(store, self.data), name)
    self.results.add(
      Row(
        step=step,
        features=self.label(row),
        probe=name,
        settings=self.key(name),
        weights=store.weights,
        scores=tuple(scores),
        seconds=round(time.time() - started, 2),
      )
    )

  # What it is computed from

  def store(self, row: str, step: int) -> FeatureStore:
    """The features of a row."""
    if (row, step) not in self._stores:
      if row == TRAINED:  # one checkpoint at a time
        self._stores = {key: store for key, store in self._stores.items() if key[0] != TRAINED}
      self._stores[row, step] = FeatureStore(self.models, row, step, self.workdir / 'features', said=self._said)
    return self._stores[row, step]

  def key(self, probe: str) -> str:
    """A digest of what a probe's numbers depend on beside the weights: sets, preprocessing, its settings, code of users."""
    checked = self.models.checked
    code = digest.of_files(outside_files([self.probes[probe], checked.method, *checked.inputs.values()]))
    return digest.of_json(
      {
        'probe': repr(self.probes[probe]),
        'train': identity(self.data.train),
        'test': identity(self.data.test),
        'inputs': {name: repr(value.evaluation()) for name, value in checked.inputs.items()},
        **({'code': code} if code else {}),
      }
    )[:12]

  def label(self, row: str) -> str:
    """The name of a row in eval.jsonl."""
    return self.baseline_name() if row == BASELINE else row

  def baseline_name(self) -> str:
    """'raw pixels'; '' where the inputs have no baseline."""
    checked = self.models.checked
    return checked.inputs[checked.method.feature_inputs('pooled')[0]].evaluation().baseline_name

  def name(self, row: str) -> str:
    """The name of a row in tables."""
    return type(self.models.checked.method).__name__ if row == TRAINED else self.label(row)

  def _check(self) -> None:
    """Raises UserError where the method or the data cannot answer one of the probes."""
    if self._checked:
      return
    checked = self.models.checked
    check_probes(self.probes, Card(checked.method, checked.inputs, checked.features), self.data)
    self._checked = True

  # Results

  def find(self, row: str, step: int, probe: str) -> Sequence[Score] | None:
    """The scores of a probe for a row, where they have been computed for these weights, data and settings."""
    weights = self.label(row) if row == BASELINE else None
    if row == TRAINED:
      try:
        weights = self.reader.digest(step)
      except Vanished:
        weights = None
    found = self.results.find(self.label(row), step, probe, self.key(probe), weights)
    return None if found is None else found.scores

  def headline(self, step: int) -> dict[str, float]:
    """The first score of each probe."""
    found = {name: self.find(TRAINED, step, name) for name in self.probes}
    return {name: scores[0].value for name, scores in found.items() if scores}

  def scores(self, step: int) -> dict[str, dict[str, Sequence[Score]]]:
    """{probe: {name of the row: scores}} of a step, in the order of the table."""
    return {
      name: {self.name(row): found for row, at in self.rows(step) if (found := self.find(row, at, name))} for name in self.probes
    }


def check_probes(probes: Mapping[str, Probe], card: Card, data: Data) -> None:
  """Raises UserError where the method or the data cannot answer one of the probes."""
  name = type(card.method).__name__
  for key, probe in probes.items():
    needs = probe.needs()
    for feature in needs.features:
      if feature not in card.features:
        raise UserError(
          f'--probes={key} needs {feature!r}, and {name} gives {", ".join(card.features)}.{suggest(feature, card.features)}'
        )
    for which, source in (('train', data.train), ('test', data.test)) if needs.labels else ():
      if not source.num_classes:
        without = ','.join(_without_labels(card))
        raise UserError(
          f'{source.name} has no labels, and {key} needs them: name labelled data with --data_{which}=URI, or ask for what '
          f'needs none: --probes={without}'
        )
    if needs.labels:
      same_classes(data.train, data.test)
    probe.check(card, data)


def _without_labels(card: Card) -> list[str]:
  """Probes that give numbers of this method without labels."""
  found = {name: make().needs() for name, make in picks.available().items() if not make.in_report}
  return [name for name, needs in found.items() if not needs.labels and set(needs.features) <= set(card.features)]


def checked_scores(scores: Iterable[Score], name: str) -> list[Score]:
  """The scores of a probe, before any is written down.

  Raises:
    UserError: it gave something else, a number that is none, or one name twice, of which eval.jsonl could hold one only.
  """
  if not isinstance(scores, Iterable):
    raise UserError(f'--probes={name}: run returned a {type(scores).__name__}, and must yield sslax.evals.probe.Score')
  found: dict[str, Score] = {}
  for score in scores:
    if not isinstance(score, Score):
      raise UserError(f'--probes={name}: run yielded a {type(score).__name__}, and must yield sslax.evals.probe.Score')
    if not isinstance(score.value, (int, float, np.number, jax.Array)) or not np.isfinite(score.value):
      raise UserError(f'--probes={name}: the score {score.name!r} is {score.value!r}, and must be a finite number')
    if score.name in found:
      raise UserError(f'--probes={name}: two scores have the name {score.name!r}')
    found[score.name] = score
  return list(found.values())


def same_classes(train: Any, test: Any) -> None:
  """Raises UserError where two labelled sets name different classes: numbers would mean other things."""
  if train.classes and test.classes and train.classes != test.classes:
    only = sorted(set(train.classes) ^ set(test.classes))
    how = f'only one of them has {", ".join(only[:5])}' if only else 'the same names in another order'
    raise UserError(f'{train.name} and {test.name} have different classes: {how}')

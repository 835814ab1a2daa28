"""The room behind `evaluate`: which checkpoints, which features, which probes; results kept in eval.jsonl, shown as a table
and a report.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np

from sslax.data import pipeline
from sslax.data.sources import open_source
from sslax.data.text import make as make_tokenizer
from sslax.errors import UserError, suggest
from sslax.evals import (
  attention,
  collapse,
  fewshot,
  floors,
  knn,
  linear,
  pretext,
  prompts,
  retrieval,
  zeroshot,
)
from sslax.evals import visualisations as pictures
from sslax.evals.features import cached, checked, extract
from sslax.evals.probe import Figure
from sslax.evaluation import jsonl
from sslax.evaluation import page as report
from sslax.io.versions import versions
from sslax.ops.views import RandomViews
from sslax.run import config as configs
from sslax.run import loop, sharding
from sslax.run.checkpoint import Reader, Vanished
from sslax.run.faults import read_status
from sslax.step import init_state

PROBES = ('knn', 'linear', 'sgd', 'fewshot', 'collapse', 'classifier', 'zeroshot', 'retrieval')
OWN = ('classifier', 'zeroshot', 'retrieval')  # ask the method for more than features: not for raw pixels
SHOTS = (1, 5, 10)
PIXELS, RANDOM = 'raw pixels', 'random encoder'


@dataclasses.dataclass
class Sets:
  """Features and labels of the training and the test images, [N, D] and [N]."""

  train: dict[str, np.ndarray]
  test: dict[str, np.ndarray]


class Evaluation:
  """Probes of one run. Each (step, features, probe, settings) is computed once, whoever asks and however often."""

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    probes: list[str],
    data_train: str = '',
    data_test: str = '',
    floors: bool = True,
    report: bool = True,
    knn_k: int = 0,
    knn_temperature: float = 0.0,
    templates: str = '',
    class_names: str = '',
  ):
    """Reads the saved config and what has been evaluated before; computes nothing.

    Raises:
      UserError: no run here, or several processes.
    """
    if jax.process_count() > 1:
      raise UserError('evaluation runs in one process: start it with --num_processes=1, on any machine that sees the workdir')
    self.workdir, self.probes, self.wants_floors, self.wants_report = workdir, probes, floors, report
    self.config = configs.load(workdir)
    self.config.mesh.data, self.config.mesh.fsdp, self.config.mesh.slices = -1, 1, 1  # the evaluator's own devices
    self.config.eval.knn_k = knn_k or self.config.eval.knn_k
    self.config.eval.knn_temperature = knn_temperature or self.config.eval.knn_temperature
    self.config.eval.templates = templates or self.config.eval.templates
    self.config.eval.class_names = class_names or self.config.eval.class_names
    self.data = {'train': data_train or self.config.data.train, 'test': data_test or self.config.data.test}
    if not self.data['test']:
      raise UserError('this run has no data.test: name a labelled test set with --data_test=URI')
    self.reader = Reader(workdir)
    self.rows = report_rows(workdir)
    self.settings = hashlib.sha256(
      json.dumps(
        [self.data, self.config.eval.to_dict(), self.config.data.image_size, self.config.data.eval_resize], sort_keys=True
      ).encode()
    ).hexdigest()[:12]
    self._prepared, self._last_state = None, (None, None)
    self.shown_step = None

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
    for step in wanted:
      try:
        self.evaluate(step)
      except Vanished:  # the trainer keeps only the newest: not an error
        print(f'step {step} was deleted by the trainer meanwhile', file=sys.stderr)

  def watch(self, poll_seconds: float, timeout: float) -> None:
    """Evaluates each new checkpoint until the run has ended and its last one is done."""
    done, last_news = set(), time.time()
    print(f'watching {self.workdir}', flush=True)
    while True:
      ended = read_status(self.workdir).get('reason') in (
        'done',
        'diverged',
      )  # read before the list: no checkpoint can come after
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
    """All probes of one checkpoint, and of the floors, that are not in eval.jsonl yet."""
    self.shown_step = step
    self.compute([('trained', step), *([(PIXELS, 0), (RANDOM, 0)] if self.wants_floors else [])])

  def compute(self, sets: list[tuple[str, int]]) -> None:
    """All probes of these (features, step) that are not in eval.jsonl yet; features: 'trained', PIXELS or RANDOM (step 0)."""
    todo = [(features, at, probe) for features, at in sets for probe in self.probes if self._find(features, at, probe) is None]
    todo = [(f, s, p) for f, s, p in todo if not (p in ('sgd', *OWN) and f == PIXELS or p == 'classifier' and f != 'trained')]
    if not todo:
      return
    self._check_own()  # before the other probes take their time
    found: dict[tuple[str, int], Sets] = {}
    for features, at, probe in todo:
      if (features, at) not in found and probe not in OWN:
        found[features, at] = self._features(features, at)
      print(f'{probe} probe of {features} ...', file=sys.stderr, flush=True)
      started = time.time()
      own = {'classifier': self._classifier, 'zeroshot': self._zeroshot, 'retrieval': self._retrieval}.get(probe)
      values = own(features, at) if own else self._probe(probe, found[features, at], features, at)
      self._write(
        {
          'step': at,
          'features': features,
          'probe': probe,
          'settings': self.settings,
          'values': values,
          'seconds': round(time.time() - started, 2),
        }
      )

  # Features

  def _prepare(self):
    """The run's method, data and shapes; once, and only if something must be computed."""
    if self._prepared is None:
      train, test = open_source(self.data['train']), open_source(self.data['test'])
      for key, source in (('train', train), ('test', test)):
        if not source.num_classes and set(self.probes) - {'retrieval'}:
          raise UserError(f'{self.data[key]} has no labels, and probes need them: name labelled data with --data_{key}=URI')
      if train.classes and test.classes and train.classes != test.classes:  # numbers would mean other classes
        raise UserError(
          f'{self.data["train"]} and {self.data["test"]} have different classes: {_difference(train.classes, test.classes)}'
        )
      run = loop.prepare_shapes(self.config, len(train))
      self._prepared = run, {'train': train, 'test': test}
    return self._prepared

  def _batch_size(self):
    devices = self._prepare()[0].mesh.size
    return max(1, self.config.eval.batch_size // devices) * devices

  def _batches(self, source):
    data = self.config.data
    return pipeline.eval_batches(
      source,
      batch_size=self._batch_size(),
      image_size=data.image_size,
      resize=data.eval_resize or data.image_size,
      threads=data.threads,
      max_pixels=data.max_pixels,
    )

  def _features(self, features: str, step: int) -> Sets:
    run, sources = self._prepare()

    def of(name):
      source = sources[name]
      if features == PIXELS:
        parts = [
          (floors.raw_pixels(b['image'][b['mask']]), b['label'][b['mask']], b['index'][b['mask']]) for b in self._batches(source)
        ]
        return dict(zip(('pooled', 'label', 'index'), (np.concatenate(part) for part in zip(*parts, strict=True)), strict=True))
      state = self._state(features, step)
      total = -(-len(source) // self._batch_size())
      return extract(run.method, state.params, state.memory, self._batches(source), mesh=run.mesh, progress=True, total=total)

    def keyed(name):
      key = {
        'features': features,
        'step': step,
        'set': self.data[name],
        'settings': self.settings,
        'config': self.config.to_json(sort_keys=True),
      }
      return cached(self.workdir / 'features', key, lambda: of(name))

    return Sets(keyed('train'), keyed('test'))

  def _state(self, features: str, step: int):
    if self._last_state[0] != (features, step):
      self._last_state = (features, step), self._load_state(features, step)
    return self._last_state[1]

  def _load_state(self, features: str, step: int):
    run = self._prepare()[0]
    if features == RANDOM:
      init = jax.jit(lambda b: init_state(run.method, run.tx, self.config.seed, b), out_shardings=run.state_sharding())
      return init(
        {k: jax.device_put(np.zeros(a.shape, a.dtype), sharding.replicated(run.mesh)) for k, a in run.abstract_batch.items()}
      )
    with self.reader.pin(step):  # the trainer may not delete it while it is read
      return self.reader.restore(run.abstract_state, step)

  # Probes

  def _probe(self, probe: str, sets: Sets, features: str, step: int) -> dict[str, Any]:
    _, sources = self._prepare()
    x, y, tx, ty = sets.train['pooled'], sets.train['label'], sets.test['pooled'], sets.test['label']
    classes, settings = sources['train'].num_classes, self.config.eval
    if probe == 'knn':
      k = min(settings.knn_k, len(y))
      return {'top1': float(knn.accuracy(x, y, tx, ty, k=k, temperature=settings.knn_temperature, num_classes=classes)), 'k': k}
    if probe == 'linear':
      found = linear.probe(x, y, tx, ty, classes, max_iter=100)  # each strength starts from the last one's solution
      return {key: float(found[key]) for key in ('accuracy', 'top5', 'l2') if key in found}
    if probe == 'sgd':
      return {'accuracy': self._sgd(sources, tx, ty, classes, features, step)}
    if probe == 'fewshot':
      shots = tuple(n for n in SHOTS if n <= np.bincount(y, minlength=classes).min())
      found = fewshot.low_shot(x, y, tx, ty, num_classes=classes, shots=shots, draws=10, seed=0)
      return {
        str(shot): {k: [float(v) for v in value] if np.ndim(value) else float(value) for k, value in row.items()}
        for shot, row in found.items()
      }
    views = None if features == PIXELS else self._views(sources['test'], features, step)
    return {key: float(value) for key, value in collapse.metrics(tx, views).items()}

  def _views(self, source, features, step, most: int = 2048) -> np.ndarray:
    """[M, 2, D] features of two random views of M test images: the method's own augmentation, or crops and flips."""
    method, state = self._prepare()[0].method, self._state(features, step)
    plain = RandomViews(size=self.config.data.image_size, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)
    augment = getattr(method, 'augment', plain).pair()

    @jax.jit
    def of(rng, image):
      views = augment(rng, {'image': image})
      pooled = method.features(state.params, state.memory, {'image': views.reshape(-1, *views.shape[2:])})['pooled']
      return pooled.reshape(len(image), 2, -1)

    parts = []
    for i, batch in enumerate(itertools.islice(self._batches(source), -(-most // self._batch_size()))):
      parts.append(np.asarray(of(jax.random.key(i), batch['image']))[batch['mask']])
    return np.concatenate(parts)

  def _check_own(self) -> None:
    """Raises UserError where the method or the data cannot answer one of the probes in OWN."""
    if not set(OWN) & set(self.probes):
      return
    run, sources = self._prepare()
    side, state, test = self.config.data.image_size, run.abstract_state, sources['test']
    batch = {'image': jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)}
    out = jax.eval_shape(run.method.features, state.params, state.memory, batch)
    name = type(run.method).__name__
    if 'classifier' in self.probes:
      if 'logits' not in out:
        raise UserError(f'--probes=classifier is for methods with a classifier of their own, and {name} has none: take linear')
      if out['logits'].shape[1] < test.num_classes:
        raise UserError(f'{name} tells {out["logits"].shape[1]} classes apart, and {self.data["test"]} has {test.num_classes}')
    for probe in {'zeroshot', 'retrieval'} & set(self.probes):
      if 'embedding' not in out:
        raise UserError(f'--probes={probe} is for methods that embed images and texts in one space, and {name} does not')
    if 'zeroshot' in self.probes:
      self._class_names(), self._templates()
    if 'retrieval' in self.probes:
      pipeline.probe(test, max_pixels=self.config.data.max_pixels, captioned=True)

  def _classifier(self, features: str, step: int) -> dict[str, float]:
    """How often the label of a test image is the largest (is among the five largest) of the method's own logits."""
    found = self._extract_test(features, step, 'logits')
    logits, label = checked(*(found[key][found['label'] >= 0] for key in ('logits', 'label')), name='logits')
    hits = np.argsort(-logits, axis=1, kind='stable')[:, :5] == label[:, None]
    return {'top1': float(hits[:, 0].mean()), **({'top5': float(hits.any(1).mean())} if logits.shape[1] > 5 else {})}

  def _zeroshot(self, features: str, step: int) -> dict[str, float]:
    """Top-1 (and top-5) accuracy on the test images of descriptions of the classes; no image has been labelled for it."""
    names, found = self._class_names(), self._extract_test(features, step, 'embedding')
    known = found['label'] >= 0
    weights = zeroshot.classifier(self._embed_text(features, step), self._tokenizer(), names, self._templates())
    hits = zeroshot.accuracy(found['embedding'][known], found['label'][known], weights, (1, 5) if len(names) > 5 else (1,))
    return {**{f'top{k}': value for k, value in hits.items()}, 'chance': 1 / len(names)}

  def _retrieval(self, features: str, step: int) -> dict[str, float]:
    """Recall at 1, 5, 10 of the right caption for a test image and of the right image for a caption."""
    _, sources = self._prepare()
    found, tokenize = self._extract_test(features, step, 'embedding'), self._tokenizer()
    captions = [pipeline.captions(sources['test'], int(i)) for i in found['index']]
    image_of_text = np.repeat(np.arange(len(captions)), [len(c) for c in captions])
    ids = np.stack([tokenize(text) for texts in captions for text in texts])
    size, embed = self._batch_size(), self._embed_text(features, step)
    blocks = [ids[i : i + size] for i in range(0, len(ids), size)]
    padded = [np.concatenate([b, np.repeat(b[-1:], size - len(b), axis=0)]) for b in blocks]  # one shape: compiled once
    text = np.concatenate([np.asarray(embed(p))[: len(b)] for p, b in zip(padded, blocks, strict=True)])
    recall = retrieval.recall(found['embedding'], text, image_of_text)
    values = {f'{way} R@{k}': r for way, by_k in recall.items() for k, r in by_k.items()}
    return {**values, 'images': len(captions), 'texts': len(text)}

  def _extract_test(self, features: str, step: int, key: str) -> dict[str, np.ndarray]:
    run, sources = self._prepare()
    state, source = self._state(features, step), sources['test']
    total = -(-len(source) // self._batch_size())
    with self._batches(source) as batches:
      return extract(run.method, state.params, state.memory, batches, mesh=run.mesh, key=key, progress=True, total=total)

  def _tokenizer(self):
    data = self.config.data
    return make_tokenizer(data.text, data.text_length, data.vocab)

  def _embed_text(self, features: str, step: int):
    """ids [N, L] -> [N, E] unit rows."""
    method, state = self._prepare()[0].method, self._state(features, step)
    return jax.jit(lambda ids: method.features(state.params, state.memory, {'text': ids})['text_embedding'])

  def _class_names(self) -> tuple[str, ...]:
    test, path = self._prepare()[1]['test'], self.config.eval.class_names
    if path:
      return prompts.class_names(path, test.num_classes)
    if not test.classes:
      raise UserError(f'{self.data["test"]} has no names of its classes: give them with --class_names=FILE, one a line')
    return test.classes

  def _templates(self) -> tuple[str, ...]:
    name = self.config.eval.templates
    if name not in prompts.TEMPLATES:
      raise UserError(f'--templates={name}: no such templates.{suggest(name, prompts.TEMPLATES)}')
    return prompts.TEMPLATES[name]

  def _sgd(self, sources, tx, ty, classes, features, step) -> float:
    """The SGD probe on random-resized crops and flips, 30 epochs."""
    run, data = self._prepare()[0], self.config.data
    state, size = self._state(features, step), self._batch_size()
    crop = RandomViews(count=1, size=data.image_size, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)
    on_host = data.crop_on == 'host'
    batches = pipeline.train_batches(
      sources['train'], batch_size=size, seed=0, image_size=data.image_size, crops=crop.crops(), crop_on=data.crop_on,
      threads=data.threads, max_pixels=data.max_pixels,
    )  # fmt: skip

    @jax.jit
    def pooled(views):
      return run.method.features(state.params, state.memory, {'image': views})['pooled']

    @jax.jit
    def augment(rng, image):
      return crop(rng, {'crops': image[:, None]} if on_host else {'image': image})[:, 0]

    try:
      images = ({'image': b['crops'][:, 0] if on_host else b['image'], 'label': b['label']} for b in batches)
      steps = 30 * max(1, len(sources['train']) // size)
      return linear.sgd_probe(pooled, images, tx, ty, num_classes=classes, steps=steps, batch_size=size, augment=augment)[
        'accuracy'
      ]
    finally:
      batches.close()

  # Results

  def _find(self, features: str, step: int, probe: str) -> dict[str, Any] | None:
    for row in self.rows:
      if (row['features'], row['step'], row['probe'], row['settings']) == (features, step, probe, self.settings):
        return row['values']
    return None

  def _write(self, row: dict[str, Any]) -> None:
    self.rows.append(row)
    with (self.workdir / 'eval.jsonl').open('a', encoding='utf-8') as file:
      file.write(json.dumps(row) + '\n')
      file.flush()
      os.fsync(file.fileno())

  def headline(self, step: int) -> dict[str, float]:
    """The first figure of each probe."""
    found = {probe: self._find('trained', step, probe) for probe in self.probes}
    figures = {}
    for probe, values in found.items():
      if values:
        key, value = next(iter(values.items()))
        figures[probe if probe != 'collapse' else key] = value['mean'] if isinstance(value, dict) else value
    return figures

  def table(self, step: int) -> report.Table:
    """One row a feature set, one column a figure."""
    sets = [(PIXELS, 0), (RANDOM, 0), ('trained', step)] if self.wants_floors else [('trained', step)]
    name = self.config.method.make.split(':')[-1]
    columns, cells = [], {}
    for features, at in sets:
      for probe in self.probes:
        for column, text in _cells(probe, self._find(features, at, probe)):
          if column not in columns:
            columns.append(column)
          cells[features, column] = text
    rows = [
      [name if features == 'trained' else features, *(cells.get((features, column), '') for column in columns)]
      for features, _ in sets
    ]
    return report.Table(f'Step {step}', ['features', *columns], rows, self._caption())

  def _caption(self):
    parts = [f'probes trained on {self.data["train"]}, tested on {self.data["test"]}.']
    if 'fewshot' in self.probes:
      parts.append(
        'n labels: accuracy of the nearest centroid with n labels a class, mean +- standard deviation of 10 draws '
        '(the same draws for every row).'
      )
    if 'knn' in self.probes:
      parts.append(f'kNN: weighted, k {self.config.eval.knn_k}, temperature {self.config.eval.knn_temperature}, all labels.')
    if 'linear' in self.probes:
      parts.append('linear: logistic regression on all labels, regularisation chosen on a tenth of the training set.')
    if 'zeroshot' in self.probes:
      chance = (self._find('trained', self.shown_step, 'zeroshot') or {}).get('chance', 0.0)
      parts.append(f"zero-shot: templates '{self.config.eval.templates}'; chance {chance:.3f}.")
    if 'retrieval' in self.probes:
      found = self._find('trained', self.shown_step, 'retrieval') or {'images': 1, 'texts': 1}
      parts.append(
        f'text R@k: a caption of the image is among the k nearest of {found["texts"]:,} (chance of R@1 '
        f'{1 / found["images"]:.4f}); image R@k: the image of the caption among {found["images"]:,}.'
      )
    return ' '.join(parts)

  def show(self) -> None:
    """The table on the terminal, and report.html."""
    if self.shown_step is None:
      return
    print('\n' + report.text_table(self.table(self.shown_step)))
    path = self.workdir / 'report.html'
    if self.wants_report:
      key = hashlib.sha256(json.dumps([self.rows, self.shown_step, self.probes], sort_keys=True).encode()).hexdigest()
      stamp = self.workdir / 'features' / 'report.key'
      if not path.exists() or not stamp.exists() or stamp.read_text() != key:
        self._report(path)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(key)
      print(f'report: {path}')

  def _report(self, path: pathlib.Path) -> None:
    step, name = self.shown_step, self.config.method.make.split(':')[-1]
    run, sources = self._prepare()
    sets = self._features('trained', step)
    metrics = jsonl.read(self.workdir / 'metrics.jsonl')
    figures = []

    def add(title, data, kind, caption, alt):
      figures.append(Figure(title, data, kind, caption, alt))

    def series(*keys):
      return {
        key: ([m['step'] for m in metrics if key in m], [m[key] for m in metrics if key in m])
        for key in keys
        if any(key in m for m in metrics)
      }

    for title, keys, log_y in (
      ('Loss', ('loss',), False),
      ('Accuracy during training', ('knn', 'contrastive_accuracy', 'accuracy', 'agreement'), False),
      ('Norms', ('grad_norm', 'param_norm'), True),
    ):
      if series(*keys):
        add(
          title,
          pictures.curves(series(*keys), ylabel=title.lower(), log_y=log_y),
          'svg',
          f'{", ".join(series(*keys))} at each logged step.',
          f'curve of {title.lower()}',
        )
    shots = self._find('trained', step, 'fewshot')
    if shots:
      bars, errors = {}, {}
      for features, at in ((PIXELS, 0), (RANDOM, 0), ('trained', step)):
        values = self._find(features, at, 'fewshot')
        if values:
          label = name if features == 'trained' else features
          bars[label], errors[label] = [values[n]['mean'] for n in shots], [values[n]['stderr'] for n in shots]
      title, ylabel = 'Label efficiency', 'accuracy'
      add(title, pictures.bars([f'{n} a class' for n in shots], bars, errors, xlabel='labels', ylabel=ylabel), 'svg',
          'Nearest centroid; mean of 10 draws, bars show the standard error.', 'accuracy by number of labels')  # fmt: skip
    classes = sources['train'].classes
    for method in ('pca', 'tsne') if sources['test'].num_classes else ():
      drawn = pictures.feature_map(sets.test['pooled'], sets.test['label'], classes, method)
      shown = {'pca': 'PCA', 'tsne': 't-SNE'}[method]
      add(f'Map of the test features ({shown})', drawn, 'png', 'Colours are classes; training saw none.', f'{shown} of features')
    if sources['test'].num_classes:
      add('Nearest neighbours', self._neighbours(sets, sources), 'png',
          'Left: test images. Right: the most similar training images by cosine of the features.',
          'sheet of nearest neighbours')  # fmt: skip
    self._looks(add, sources['test'], step)
    try:
      add('The pretext task', pictures.png(pretext.sheet(run.method, self.config, open_source(self.config.data.train))), 'png',
          'Original images and the views that the loss compares.', 'sheet of views')  # fmt: skip
    except UserError as error:  # the evaluator may run where the training data is not
      print(f'no sheet of views: {error}', file=sys.stderr)
    status = read_status(self.workdir)
    report.write(
      path,
      title=f'{name} on {self.config.data.train}',
      summary={
        'step': str(step),
        'images seen': f'{step * self.config.batch_size:,}',
        'run': str(status.get('reason', '')),
        'bad records': str(status.get('bad_records', 0)),
        'workdir': str(self.workdir),
        'written': time.strftime('%Y-%m-%d %H:%M'),
      },
      tables=[self.table(step)],
      figures=figures,
      config_json=self.config.to_json(indent=1, sort_keys=True),
      versions=versions(),
      notes=[],
    )

  def _looks(self, add, source, step: int, rows: int = 8) -> None:
    """Adds what the method predicts, where its encoder looks, and what its patches have in common, as far as it has these."""
    method, state = self._prepare()[0].method, self._state('trained', step)
    with self._batches(source) as batches:
      image = next(batches)['image'][:rows]
    where = (state.params, state.memory, {'image': image})
    names = []

    @jax.jit
    def predictions(params, memory, batch, rng):
      columns = method.pictures(params, memory, batch, rng)
      names[:] = columns  # jit would give them back in the order of the alphabet
      return list(columns.values())

    columns = [np.asarray(column) for column in predictions(*where, jax.random.key(0))]
    if columns:
      cells = [[pictures.rgb(column[i]) for column in columns] for i in range(len(image))]
      add('What the method predicts', pictures.png(pictures.sheet(cells, column_labels=names)), 'png',
          'Test images; the mask is drawn anew.', 'sheet of predictions')  # fmt: skip
    maps = attention.attention_maps(method, *where[:2], image)
    if maps is not None:
      heads = min(maps.shape[1], 6)
      cells = [
        [image[i], *(pictures.heat(m, image.shape[1]) for m in (maps[i].mean(0), *maps[i, :heads]))] for i in range(len(image))
      ]
      labels = ['image', 'mean of heads', *(f'head {h + 1}' for h in range(heads))]
      add('Where the last block looks', pictures.png(pictures.sheet(cells, column_labels=labels)), 'png',
          'Attention of the class token (without one: of all patches) to the patches; bright is much.',
          'attention maps')  # fmt: skip
    out = jax.jit(method.features)(*where)
    try:
      components = attention.patch_pca(np.asarray(out['tokens']))
    except (KeyError, ValueError):  # no tokens, or no square grid of them
      return
    cells = [[image[i], pictures.enlarged(pictures.rgb(components[i]), image.shape[1])] for i in range(len(image))]
    add('Patch features in three colours', pictures.png(pictures.sheet(cells, column_labels=['image', 'components 1-3'])), 'png',
        'The first three principal components of all patches of these images; like colours, like features.',
        'principal components of patches')  # fmt: skip

  def _neighbours(self, sets: Sets, sources, queries: int = 8, k: int = 8) -> bytes:
    rows = np.random.default_rng(0).permutation(len(sets.test['label']))[:queries]
    x, q = _unit(sets.train['pooled']), _unit(sets.test['pooled'][rows])
    similarity = q @ x.T
    nearest = np.argsort(-similarity, axis=1)[:, :k]
    side, most = max(32, min(self.config.data.image_size, 96)), self.config.data.max_pixels
    used, place = np.unique(nearest, return_inverse=True)
    gallery = np.stack([pretext.original(sources['train'], int(sets.train['index'][i]), side, most) for i in used])
    picture = pictures.neighbours_sheet(
      np.stack([pretext.original(sources['test'], int(sets.test['index'][i]), side, most) for i in rows]),
      sets.test['label'][rows], gallery, sets.train['label'][used], place.reshape(nearest.shape),
      np.take_along_axis(similarity, nearest, 1), sources['train'].classes or None,
    )  # fmt: skip
    return pictures.png(picture)


def report_rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  path = workdir / 'eval.jsonl'
  return jsonl.read(path) if path.exists() else []


def _cells(probe: str, values: dict[str, Any] | None) -> list[tuple[str, str]]:
  if values is None:
    return []
  if probe == 'knn':
    return [('kNN, all labels', f'{values["top1"]:.3f}')]
  if probe == 'linear':
    return [('linear, all labels', f'{values["accuracy"]:.3f}')]
  if probe == 'classifier':
    return [(f'classifier, {key}', f'{value:.3f}') for key, value in values.items()]
  if probe == 'zeroshot':
    return [(f'zero-shot {key}', f'{value:.3f}') for key, value in values.items() if key != 'chance']
  if probe == 'retrieval':
    short = {'image_to_text': 'text', 'text_to_image': 'image'}  # what is retrieved
    return [(f'{short[key.split()[0]]} {key.split()[1]}', f'{value:.3f}') for key, value in values.items() if 'R@' in key]
  if probe == 'sgd':
    return [('linear (SGD)', f'{values["accuracy"]:.3f}')]
  if probe == 'fewshot':
    return [(f'{n} label{"s" if n != "1" else ""}', f'{row["mean"]:.3f} +- {row["std"]:.3f}') for n, row in values.items()]
  return [(key, f'{value:.3f}') for key, value in values.items()]


def _difference(a, b) -> str:
  only = sorted(set(a) ^ set(b))
  return f'only one of them has {", ".join(only[:5])}' if only else 'the same names in another order'


def _unit(x):
  return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

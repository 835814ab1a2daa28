"""What all runs have in common: put into each config, and told where it is missing or differs."""

import dataclasses
import json
from typing import ClassVar

import ml_collections
import pytest
from run.trainer import TINY

from sslax.comparison import fair, shared
from sslax.errors import UserError
from sslax.evals.knn import KNN
from sslax.inputs.image import Image
from sslax.inputs.text import Text
from sslax.methods.averaged import Averaged
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.run import config as configs
from sslax.run.prepare import build_method
from sslax.spec import build, find, spec


def test_encoders_are_replaced_at_any_depth(make, monkeypatch):
  base = find(f'{TINY}:get_config')()
  base.method = spec(Averaged, inner=base.method)
  base.num_steps, base.num_epochs = 0, 3.0
  plan = make(methods=(f'deep={TINY} method.momentum=0.5',)).plan
  monkeypatch.setattr(plan, '_load', lambda *_: base)
  config = plan.resolve('deep', 5)
  assert config.method.inner.encoder.to_dict() == plan.config.shared.encoder.to_dict()
  assert (config.seed, config.num_steps, config.num_epochs, config.method.momentum) == (5, 40, 0.0, 0.5)
  method = build(config.method)
  assert method.inner.encoder == ResNet(depth=18, stem='cifar', stages=(1, 1), base=4)
  parent = ml_collections.ConfigDict(dict(encoder=spec(ResNet, depth=50)))
  base.method = ml_collections.ConfigDict(dict(make='a:b', parts=(spec(ResNet), parent)))
  assert shared.replace(base.method, 'encoder', plan.config.shared.encoder) == 1
  assert base.method.parts[1].encoder.base == 4 and base.method.parts[0].base == 64


def test_images_and_captions_are_replaced_by_name(make):
  job = make()
  with job.plan.config.unlocked():
    job.plan.config.shared.image = spec(Image, size=16, resize=20)
  resolved = {name: job.plan.resolve(name, 0) for name in ('cold', 'warm')}
  for config in resolved.values():
    assert build_method(config).inputs() == {'image': Image(16, resize=20)} and config.method.encoder.base == 4
  with pytest.raises(UserError, match='method.image.size.*same for all'):
    make_with(job, f'a={TINY} method.image.size=8').plan.resolve('a', 0)
  with job.plan.config.unlocked():
    job.plan.config.shared.caption = spec(Text)
  with pytest.raises(UserError, match='no node `caption` for config.shared.caption'):
    job.plan.resolve('cold', 0)
  method = ml_collections.ConfigDict(dict(make='a:b', caption=spec(Text, length=9), text=spec(Text, length=8)))
  assert shared.replace(method, 'caption', spec(Text, length=30)) == 1
  assert method.caption.length == 30 and method.text.length == 8


def make_with(job, *methods):
  """The same comparison of other methods."""
  config = job.plan.config.copy_and_resolve_references()
  with config.unlocked():
    config.methods = methods
  return type(job)(config, job.plan.folders[0] / 'x.py', job.plan.workdir)


@dataclasses.dataclass(frozen=True)
class Odd:
  """An encoder that says of another field that it is the method's."""

  of_method: ClassVar[tuple[str, ...]] = ('norm_groups',)
  depth: int = 1
  norm_groups: int = 1
  norm_strided: bool = False


def test_what_of_an_encoder_belongs_to_the_method_stays():
  method = ml_collections.ConfigDict(
    dict(make='a:b', encoder=spec(ResNet, depth=50, norm_groups=8, norm_strided=True, zero_init_residual=False))
  )
  assert shared.replace(method, 'encoder', spec(ResNet, depth=18)) == 1
  built = build(method.encoder)
  assert (built.depth, built.norm_groups, built.norm_strided, built.zero_init_residual) == (18, 8, True, True)
  method = ml_collections.ConfigDict(dict(make='a:b', encoder=spec(ViT, variant='S', drop_path=0.1, freeze_patch=True, patch=8)))
  assert shared.replace(method, 'encoder', spec(ViT, variant='Ti')) == 1
  built = build(method.encoder)
  assert (built.variant, built.drop_path, built.freeze_patch, built.patch) == ('Ti', 0.1, True, 16)
  assert shared.replace(method, 'encoder', spec(ResNet, depth=18)) == 1, 'another class, which has no drop path'
  assert build(method.encoder) == ResNet(depth=18)
  method.encoder.norm_groups, method.encoder.norm_strided = 4, True
  assert shared.replace(method, 'encoder', spec(Odd, depth=3)) == 1
  assert dataclasses.asdict(build(method.encoder)) == dict(depth=3, norm_groups=4, norm_strided=False), 'both must say so'


def test_encoders_differ_in_what_is_not_the_methods(make):
  methods = {'a': dict(norm_groups=8), 'b': dict(norm_strided=True), 'c': dict(depth=34)}
  configs_of = {}
  for name, fields in methods.items():
    configs_of[name] = make().plan.resolve('cold', 0)
    configs_of[name].method.encoder.update(fields)
  seen = {name: {'image': 'x'} for name in methods}
  assert fair.unfair({k: configs_of[k] for k in 'ab'}, seen, {}) == []
  (told,) = fair.unfair(configs_of, seen, {})
  assert told.startswith('encoder differs') and '"depth": 34' in told and 'norm_groups' not in told


def test_what_is_not_shared_must_agree(make):
  job = make(methods=(f'a={TINY}', f'b={TINY} num_steps=7'))
  with job.plan.config.unlocked():
    del job.plan.config.shared['num_steps'], job.plan.config.shared['num_epochs']
  with pytest.raises(UserError, match='(?s)num_steps differs.*config.shared.num_steps.*a: 40; b: 7'):
    job.check()


@pytest.mark.parametrize('override', ['method.image.size=16', 'data.image_size=16', 'method.image.resize=12'])
def test_what_probes_see_must_agree(make, override):
  job = make(methods=(f'a={TINY}', f'b={TINY} {override}'))
  with pytest.raises(UserError, match='what probes see differs.*config.shared.image=spec.*a: image: Central.*b: image: Central'):
    job.check()


def test_settings_of_probes_must_agree(make, monkeypatch):
  job = make(methods=(f'a={TINY}', f'b={TINY}'))
  with job.plan.config.unlocked():
    del job.plan.config.shared['eval']
  base = find(f'{TINY}:get_config')()
  monkeypatch.setattr(job.plan, '_load', lambda *_: base.copy_and_resolve_references())
  base.eval.probes.knn = spec(KNN)
  job.plan.check()  # the defaults, written or not, and what nobody looks at
  other = base.copy_and_resolve_references()
  other.eval.probes.knn.k = 7
  given = iter([base, other])
  monkeypatch.setattr(job.plan, '_load', lambda *_: next(given))
  with pytest.raises(UserError, match=r'eval.probes.knn differs.*config.shared.eval.probes.knn.*a: KNN\(k=200.*b: KNN\(k=7'):
    job.plan.check()


class Broken:
  """Of a user: it cannot say what it takes."""

  def inputs(self):
    raise KeyError('augment')


def test_a_method_that_cannot_say_what_it_sees():
  with pytest.raises(UserError, match="Broken.inputs: KeyError: 'augment'"):
    fair.seen_by_probes(Broken())


def test_probes_may_be_added_and_nothing_else(make):
  knn = json.loads(make().plan.resolve('cold', 0).to_json())['eval']['probes']['knn']
  assert knn == {'make': 'sslax.evals.knn:KNN', 'k': 20, 'temperature': 0.1}
  config = configs.base_config()
  for common, words in (
    (dict(eval=dict(knn_k=20)), ('config.shared.eval.knn_k', 'It is config.shared.eval.probes.knn.k now')),
    (
      dict(data=dict(image_size=8)),
      ('config.shared.data.image_size', "nodes 'image'", 'config.shared.image=spec('),
    ),
    (dict(image=dict(size=8)), ('config.shared.image', 'spec(...)')),
    (dict(evla=dict(batch_size=8)), ('config.shared.evla', 'Did you mean eval?')),
    (dict(batchsize=8), ('config.shared.batchsize', 'Did you mean batch_size?')),
    (dict(data=8), ('config.shared.data=8',)),
    (dict(seed=dict(of=8)), ('config.shared.seed is a node',)),
    (dict(batch_size='many'), ("config.shared.batch_size='many'",)),
    (dict(eval=dict(probes=dict(knn=8))), ('config.shared.eval.probes.knn',)),
  ):
    with pytest.raises(UserError) as error:
      shared.merge(config.copy_and_resolve_references(), ml_collections.ConfigDict(common))
    assert all(word in str(error.value) for word in words), error.value


def test_overrides_by_the_names_of_an_earlier_version():
  config = find(f'{TINY}:get_config')()
  shared.override(config, 'data.image_size=24', (), ())
  assert config.method.image.size == 24
  with pytest.raises(UserError, match='same for all'):
    shared.override(config, 'data.image_size=24', (), ('image',))
  with pytest.raises(UserError, match='there is no such key'):
    shared.override(config, 'data.vocab=x', (), ())  # it has no captions

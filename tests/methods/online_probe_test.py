import jax
import numpy as np
import pytest
from methods.battery import Battery, Trainer, tiny_batch
from methods.byol_test import tiny_byol
from methods.supcon_test import tiny_supcon

from sslax.errors import UserError
from sslax.methods.averaged import Averaged
from sslax.methods.online_probe import OnlineProbe
from sslax.run.checkpoint import state_hash


def colours(rows=16):
  """Images of four classes that differ in colour: a linear probe of anything tells them apart."""
  batch = tiny_batch(rows)
  batch['label'] = np.arange(rows, dtype=np.int32) % 4
  tint = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)[batch['label']]
  batch['image'] = (batch['image'] // 4 + tint[:, None, None] // 4 * 3).astype(np.uint8)
  return batch


class TestOnlineProbe(Battery):
  def make(self):
    return OnlineProbe(inner=tiny_byol(), num_classes=4)

  @pytest.mark.slow
  def test_training_is_what_it_is_without_the_probe(self, trained):
    """Parameters and the inner memory, bit for bit, although clipping by the global norm is on."""
    _, last, history = trained
    state, plain = Trainer(tiny_byol()).run(3)
    assert state_hash(state.params) == state_hash(jax.device_put(last.params))
    assert state_hash(state.memory) == state_hash(jax.device_put(last.memory['inner']))
    assert [m['grad_norm'] for m in plain] == [m['grad_norm'] for m in history]

  @pytest.mark.slow
  def test_learns_the_labels(self):
    state, history = Trainer(OnlineProbe(inner=tiny_byol(), num_classes=4), batch=colours()).run(25)
    assert history[0]['probe_accuracy'] < 0.6 and history[0]['probe_loss'] == pytest.approx(np.log(4), rel=1e-4)
    assert history[-1]['probe_accuracy'] > 0.9
    logits = OnlineProbe(inner=tiny_byol(), num_classes=4).features(state.params, state.memory, {'image': colours()['image']})
    assert np.mean(np.argmax(logits.logits, 1) == colours()['label']) > 0.9


@pytest.mark.slow
def test_wrappers_nest_and_declare_what_the_inner_one_does():
  method = Averaged(inner=OnlineProbe(inner=tiny_supcon(), num_classes=4))
  assert method.uses_labels
  state, history = Trainer(method).run(1)
  assert 'probe_accuracy' in history[0] and set(state.memory['inner']) == {'inner', 'probe', 'velocity', 'statistics'}


def test_data_without_labels_is_refused():
  with pytest.raises(UserError, match='labels'):
    OnlineProbe(inner=tiny_byol(), num_classes=4).views(jax.random.key(0), {'image': tiny_batch()['image']})


def test_before_the_run_is_known_it_is_for_any_number_of_classes():
  """`plan` asks so, of a run whose data is not here."""
  assert OnlineProbe(inner=tiny_byol()).label_classes == 0
  assert OnlineProbe(inner=tiny_byol(), num_classes=4).label_classes == 4

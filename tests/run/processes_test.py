"""Two processes (gloo) against one, and eight devices against one, with the real trainer."""

import socket

import pytest
from run.trainer import TINY, lines, start, status, train


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
  """Two processes with one device each see the same images in the same order as one process with two: the same losses."""
  code, output = train(tmp_path / 'one', '--config.num_steps=6', devices=2)
  assert code == 0, output
  port = free_port()
  pair = [
    start('train', f'--config={TINY}', f'--workdir={tmp_path / "two"}', '--config.num_steps=6',
    SSLAX_COORDINATOR=f'127.0.0.1:{port}',
          SSLAX_NUM_PROCESSES='2', SSLAX_PROCESS_ID=str(i))
    for i in range(2)
  ]  # fmt: skip
  outputs = [process.communicate(timeout=180)[0] for process in pair]
  assert [process.returncode for process in pair] == [0, 0], '\n'.join(outputs)
  one, two = lines(tmp_path / 'one'), lines(tmp_path / 'two')
  assert [line['step'] for line in two] == [1, 2, 3, 4, 5, 6]
  for a, b in zip(one, two, strict=True):
    assert b['loss'] == pytest.approx(a['loss'], rel=1e-5)


def test_eight_devices_are_one_in_the_real_trainer(tmp_path):
  for devices in (1, 8):
    code, output = train(tmp_path / str(devices), '--config.num_steps=6', devices=devices)
    assert code == 0, output
  one, eight = lines(tmp_path / '1'), lines(tmp_path / '8')
  for a, b in zip(one, eight, strict=True):
    assert b['loss'] == pytest.approx(a['loss'], rel=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_on_another_number_of_devices(tmp_path):
  """The global batch stays; the losses after the change are those of the run that did not change."""
  code, output = train(tmp_path / 'whole', '--config.num_steps=10', devices=8)
  assert code == 0, output
  from run.trainer import TERM, signal_at

  code, output = signal_at(tmp_path / 'moved', 4, TERM, '--config.num_steps=10', devices=8)
  assert code == 42, output
  at = status(tmp_path / 'moved')['step']
  code, output = train(tmp_path / 'moved', '--config.num_steps=10', devices=4)
  assert code == 0 and f'resuming at step {at}' in output, output
  for a, b in zip(lines(tmp_path / 'whole'), lines(tmp_path / 'moved'), strict=True):
    assert b['loss'] == pytest.approx(a['loss'], rel=1e-5)

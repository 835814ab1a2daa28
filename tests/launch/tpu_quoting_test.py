"""Words that go through shells come out as they went in: launch/tpu's quoting against bash's own, and lines within lines."""

import shlex
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launch.tpu_pods import hosts
from launch.tpu_pods.quoting import line, quote

NASTY = [
  '', ' ', 'a b', "it's", '"', '$HOME', '${HOME}', '$(id)', '`id`', '(1, 2)', '(1,)', 'a;b', 'a&&b', 'a|b', '>x', '<x',
  '*', '?', '[a]', '{a,b}', '!', '!!', '\\', '\\n', 'a\\', '#x', 'a#x', '~', '~/x', 'a~', 'a=~/x', 'a:~/x', '-', '--', '--x=1',
  '^', '%q', '@', '+', 'a\nb', '\n', 'tab\there', "a\n'b'", '\x1b[0m', '\x7f', '\x01', '\r', 'é', '—', '\u00a0', '日本',
  '\udcff', 'a\udcff\udcfe', "$'a'", "--config=a b.py:it's",
]  # fmt: skip


def words_of(text):
  """What bash makes of a line."""
  printed = subprocess.run(['bash', '-c', f"printf '%s\\0' {text}"], capture_output=True, check=True, env={'LC_ALL': 'C.UTF-8'})
  return [word.decode('utf-8', 'surrogateescape') for word in printed.stdout.split(b'\0')[:-1]]


def bashs_own(words):
  printed = subprocess.run(
    ['bash', '-c', 'printf \'%q\\0\' "$@"', 'bash', *words], capture_output=True, check=True, env={'LC_ALL': 'C.UTF-8'}
  )
  return [word.decode('utf-8', 'surrogateescape') for word in printed.stdout.split(b'\0')[:-1]]


def test_as_bash_prints_it():
  assert [quote(word) for word in NASTY] == bashs_own(NASTY)


letters = st.characters(exclude_characters='\0', exclude_categories=['Cs'])
special = st.sampled_from('ab~=:#$`\'"\\(){}[]!* \n\t;&|<>?^,%\x1b\x7f')


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(letters) | st.text(special), min_size=1, max_size=20))
@example(NASTY)
def test_words_come_back(words):
  assert words_of(line(words)) == words
  plain = [word for word in words if word.isascii()]
  assert [quote(word) for word in plain] == (bashs_own(plain) if plain else [])


def test_a_verb_gets_its_words_through_two_shells(tmp_path):
  """As a host does it: the line is one word of gcloud's, and is read by the host's shell."""
  worker = tmp_path / 'sslax' / 'current' / 'launch' / 'lib' / 'worker.sh'
  worker.parent.mkdir(parents=True)
  worker.write_text('printf \'%s\\0\' "$@"\n')
  command = hosts.verb('current', 'run', 'r1', 3, *NASTY)
  (shown,) = words_of(quote(command))
  assert shown == command
  done = subprocess.run(['bash', '-c', shown], cwd=tmp_path, capture_output=True, check=True)
  assert done.stdout.split(b'\0')[:-1] == [word.encode('utf-8', 'surrogateescape') for word in ('run', 'r1', '3', *NASTY)]


def test_a_host_that_is_new_says_so(tmp_path):
  done = subprocess.run(['bash', '-c', hosts.verb('code/abc', 'status')], cwd=tmp_path, capture_output=True, text=True)
  assert done.returncode == 0 and hosts.parse(done.stdout) == {'new': (2, 'not set up; launch/tpu setup does it')}


@pytest.mark.parametrize('words', [['a b', "it's"], ['$HOME'], ['(1, 2)']])
def test_what_is_shown_can_be_pasted(words):
  assert shlex.split(line(words)) == words

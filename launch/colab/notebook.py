# The cells of sslax.ipynb, in the percent format; `python launch/colab/build.py` makes the notebook from this file.
# ruff: noqa: E402

# %% [markdown]
# # sslax: self-supervised learning in a notebook
#
# Trains an encoder without labels, shows what it learnt, and goes on where a lost machine stopped. **Runtime > Run all** is
# enough; on Colab choose a TPU, a GPU or nothing (Runtime > Change runtime type). The default, SimCLR on 1,297 handwritten
# digits, takes minutes even on a CPU.
#
# * `METHOD`, `PRESET`: the recipe `configs/METHOD.py:PRESET`. simclr, moco, byol, vicreg, dino (attention), mae and simmim
#   (reconstructions) and more, each with a preset `digits`.
# * `DATASET`, `TEST_DATASET`: where images come from, such as `folder:/content/photos`, `parquet:/content/cifar10/train-*` or
#   `tfds:cifar10@train`; empty: those of the preset.
# * `STEPS`: updates; 0: as many as the preset says.
# * `WORKDIR`: where checkpoints, metrics and the report go; the same one resumes.
# * `SAVE_EVERY`: steps between checkpoints; at most so many are repeated after a lost machine.
# * `OVERRIDES`: more flags, such as `--config.method.temperature=0.1 --config.batch_size=256`.
# * `PROBES`: the evaluation: knn, linear, fewshot, collapse, ...; empty: none, as for images without labels.
# * `REPO`, `REF`: git URL and branch or tag of sslax; read only where neither a clone nor an installed sslax is found.
#
# A machine on Colab may vanish at any time. With `WORKDIR = '/content/drive/MyDrive/sslax/digits'` (Drive, mounted below) or
# `'gs://BUCKET/FOLDER'` (mounted by gcsfuse) the run survives it: run all cells again on the next machine.

# %% tags=["parameters"]
METHOD = 'simclr'  # @param {type: "string"}
PRESET = 'digits'  # @param {type: "string"}
DATASET = ''  # @param {type: "string"}
TEST_DATASET = ''  # @param {type: "string"}
STEPS = 0  # @param {type: "integer"}
WORKDIR = 'runs/notebook'  # @param {type: "string"}
SAVE_EVERY = 100  # @param {type: "integer"}
OVERRIDES = ''  # @param {type: "string"}
PROBES = 'fewshot,knn'  # @param {type: "string"}
REPO = ''  # @param {type: "string"}
REF = ''  # @param {type: "string"}

# %% [markdown]
# ## Install
#
# Training and evaluation run as programs of their own, so that this kernel never holds the accelerator or its memory, and nothing
# that pip changes needs a restart. The image's jax stays as it is where it is new enough and knows the accelerator.

# %%
import codecs
import glob
import html
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios

from IPython.display import HTML, Image, display
from packaging.requirements import Requirement


def run(*command, ok=(0,), cwd=None):
  """Runs a program and shows what it prints while it prints it.

  An interrupt (the stop button) goes to the program as one SIGTERM, so that a training saves its state before it ends.

  Returns:
    (exit code, whether it was interrupted here).

  Raises:
    RuntimeError: it ended with another code than those in `ok`.
  """
  ours, theirs = os.openpty()  # on a terminal progress bars move twice a second instead of four times a minute
  termios.tcsetwinsize(theirs, (24, 110))
  mode = termios.tcgetattr(theirs)
  mode[1] &= ~termios.OPOST  # line ends as they are
  termios.tcsetattr(theirs, termios.TCSANOW, mode)
  leash = ['setpriv', '--pdeathsig', 'TERM'] if shutil.which('setpriv') else []  # no training without its kernel
  program = subprocess.Popen([*leash, *command], stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, start_new_session=True)
  os.close(theirs)
  text, interrupted = codecs.getincrementaldecoder('utf-8')('replace'), False
  while True:
    try:
      if not (part := os.read(ours, 65536)):
        break
      print(text.decode(part), end='', flush=True)
    except OSError:  # how a terminal says that the other side has closed it
      break
    except KeyboardInterrupt:
      if not interrupted:
        program.send_signal(signal.SIGTERM)
        print('\nstopping: the program saves its state first', flush=True)
      interrupted = True
  os.close(ours)
  if (code := program.wait()) not in ok:
    raise RuntimeError(f'{shlex.join(map(str, command))[:300]}: exit code {code}; what is wrong is said above')
  return code, interrupted


def find_project():
  """The folder that holds configs/METHOD.py: a clone around this notebook or below it, or where an installed sslax comes from."""
  here = pathlib.Path.cwd()
  package = importlib.util.find_spec('sslax')
  beside = [pathlib.Path(package.origin).parents[1]] if package and package.origin else []
  return next((p for p in (here, *here.parents, here / 'sslax', *beside) if (p / 'configs' / f'{METHOD}.py').is_file()), None)


def find_accelerator():
  """'tpu', 'gpu' or 'cpu': what the machine has, whatever jax says."""
  if shutil.which('nvidia-smi') and subprocess.run(['nvidia-smi', '-L'], capture_output=True).returncode == 0:
    return 'gpu'
  google = '0x1ae0' in {path.read_text().strip() for path in pathlib.Path('/sys/bus/pci/devices').glob('*/vendor')}
  return 'tpu' if glob.glob('/dev/accel*') or google and glob.glob('/dev/vfio/[0-9]*') else 'cpu'  # vfio has others' devices, too


def installed(name):
  """The version of an installed package, or ''."""
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return ''


def missing_packages(requirements, accelerator):
  """What pip must install: nothing that is new enough, and jax only where it is missing, old or blind to the accelerator."""
  wanted = [Requirement(line) for line in requirements.read_text().splitlines() if line and line[0] != '#']
  wanted = [r for r in wanted if not r.name.startswith(('pytest', 'hypothesis'))]  # of the tests
  missing = [r for r in wanted if not installed(r.name) or not r.specifier.contains(installed(r.name), prereleases=True)]
  plugins = {'tpu': ('libtpu',), 'gpu': ('jax-cuda13-plugin', 'jax-cuda12-plugin'), 'cpu': ('jaxlib',)}[accelerator]
  extra = {'tpu': '[tpu]', 'gpu': '[cuda13]', 'cpu': ''}[accelerator]
  if any(r.name == 'jax' for r in missing):
    missing = [r for r in missing if r.name != 'jax']
    return [f'jax{extra}{next(r.specifier for r in wanted if r.name == "jax")}', *map(str, missing)]
  if not any(map(installed, plugins)):
    return [f'jax{extra}=={installed("jax")}', *map(str, missing)]
  return [str(r) for r in missing]


accelerator = find_accelerator()
if (project := find_project()) is None:
  if not REPO:
    raise RuntimeError(
      f'configs/{METHOD}.py is neither around {pathlib.Path.cwd()} nor beside an installed sslax: is METHOD right? '
      'Otherwise set REPO to the git URL of sslax.'
    )
  if not pathlib.Path('sslax').exists():
    run('git', 'clone', '--quiet', '--depth=1', *(['--branch', REF] if REF else []), REPO, 'sslax')
  if (project := find_project()) is None:
    known = ', '.join(sorted(p.stem for p in pathlib.Path('sslax/configs').glob('*.py')))
    raise RuntimeError(f'{REPO} has no configs/{METHOD}.py; it has {known}')
if (project / 'requirements.txt').is_file() and (packages := missing_packages(project / 'requirements.txt', accelerator)):
  print('installing', ', '.join(packages))
  with tempfile.NamedTemporaryFile('w', suffix='.txt') as keep:  # pip must not move a jax that serves
    if not any(re.match('jax[^a-z-]', package) for package in packages):
      keep.write(''.join(f'{name}=={installed(name)}\n' for name in ('jax', 'jaxlib') if installed(name)))
      keep.flush()
    run(sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '-c', keep.name, *packages)
print(f'sslax in {project}')

# %% [markdown]
# ## The device, and a place for results that outlives it

# %%
run(
  sys.executable,
  '-c',
  'import sys, jax\n'
  'devices = jax.devices()\n'
  'print(f"jax {jax.__version__} runs on {devices[0].platform.upper()}: {len(devices)} x {devices[0].device_kind}")\n'
  'if sys.argv[1] != devices[0].platform: print(f"warning: this machine has a {sys.argv[1].upper()} that jax does not use")',
  accelerator,
)
if WORKDIR.startswith('/content/drive/') and not pathlib.Path('/content/drive/MyDrive').exists():
  from google.colab import drive

  drive.mount('/content/drive')
workdir = pathlib.Path(WORKDIR).expanduser().absolute()
if WORKDIR.startswith('gs://'):
  bucket, _, folder = WORKDIR.removeprefix('gs://').partition('/')
  mount = pathlib.Path.home() / 'gcs' / bucket
  if importlib.util.find_spec('google.colab'):
    from google.colab import auth

    auth.authenticate_user()
  if not os.path.ismount(mount):
    mount.mkdir(parents=True, exist_ok=True)
    run('gcsfuse', '--implicit-dirs', '--rename-dir-limit=100000', bucket, str(mount))
  workdir = mount / folder
print(f'results in {workdir}')

# %% [markdown]
# ## Look first: images, and the views that the method makes of them

# %%
flags = [f'--config={project}/configs/{METHOD}.py:{PRESET}', f'--config.checkpoint.every_steps={SAVE_EVERY}']
flags += [f'--config.num_steps={STEPS}', '--config.num_epochs=0.0'] if STEPS else []
flags += [f'--config.data.train={DATASET}'] if DATASET else []
flags += [f'--config.data.test={TEST_DATASET}'] if TEST_DATASET else []
flags += shlex.split(OVERRIDES)

with tempfile.TemporaryDirectory() as folder:
  run(sys.executable, '-m', 'sslax.show', *flags, f'--out={folder}/views.png', '--images=4', cwd=project)
  display(Image(f'{folder}/views.png'))

# %% [markdown]
# ## Train
#
# The stop button saves the state; running this cell again goes on from there, also on another machine, as if nothing had
# happened. A finished run says so. Other parameters need another `WORKDIR`: the difference is shown.

# %%
RESTART = (42, 170)  # interrupted with the state saved; stalled
for _ in range(5):
  code, interrupted = run(sys.executable, '-m', 'sslax.train', *flags, f'--workdir={workdir}', ok=(0, *RESTART), cwd=project)
  if interrupted and code in RESTART:
    raise RuntimeError('stopped, the state is saved: run this cell again to go on')
  if code == 0:
    break
else:
  raise RuntimeError(f'exit code {code} five times in a row; the messages are above')

# %% [markdown]
# ## Evaluate
#
# Frozen features against few labels and many, with raw pixels and the untrained encoder beside them.

# %%
if PROBES:
  run(sys.executable, '-m', 'sslax.evaluate', f'--workdir={workdir}', f'--probes={PROBES}', cwd=project)


def figures(*words):
  """Shows the figures of report.html whose titles have one of these words."""
  page = (workdir / 'report.html').read_text(encoding='utf-8') if PROBES else ''
  found = {html.unescape(f[1]): f[0] for f in re.finditer(r'<figure><h3>(.*?)</h3>.*?</figure>', page, re.DOTALL)}
  style = '<style>.paper svg, .paper img {max-width: 760px; height: auto; background: white}</style>'
  shown = [figure for title, figure in found.items() if any(word in title for word in words)]
  for figure in shown:
    display(HTML(style + figure))
  if not shown:
    print(f'{METHOD} has no such figure; there are: {", ".join(found) or "none"}')


# %% [markdown]
# ## Curves

# %%
figures('Loss', 'Accuracy during training', 'Label efficiency')

# %% [markdown]
# ## The map of the features
#
# Each point is a test image; colours are classes that training never saw.

# %%
figures('Map of the test features', 'Nearest neighbours')

# %% [markdown]
# ## Attention, reconstructions, patches
#
# Where the encoder is a vision transformer: `METHOD = 'dino'`, `'mae'`, `'simmim'`, `'ibot'`.

# %%
figures('What the method predicts', 'Where the last block looks', 'Patch features')

# %% [markdown]
# ## The whole report, and what is saved

# %%
if PROBES:
  page = html.escape((workdir / 'report.html').read_text(encoding='utf-8'), quote=True)
  display(HTML(f'<div><iframe srcdoc="{page}" width="100%" height="800" style="border: 1px solid #d0d7de"></iframe></div>'))
for path in sorted(workdir.iterdir()):
  print(path.name + '/' * path.is_dir())

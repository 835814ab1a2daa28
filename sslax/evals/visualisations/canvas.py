"""Matplotlib's figures in one style, never through pyplot's global state. It costs a second, so it is imported where it draws."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from sslax.errors import UserError
from sslax.evals.visualisations.text import printable
from sslax.io import extras

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_STYLE = {
  'font.family': ['DejaVu Sans'],
  'font.size': 10,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': '#8c959f',
  'axes.labelcolor': '#1f2328',
  'axes.titlesize': 11,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.axisbelow': True,
  'grid.color': '#e4e7eb',
  'xtick.color': '#57606a',
  'ytick.color': '#57606a',
  'legend.frameon': False,
  'svg.fonttype': 'none',  # text stays text: small files, can be searched and read aloud
  'svg.hashsalt': 'sslax',  # the same picture is the same bytes
}


@contextlib.contextmanager
def figure(width: float, height: float) -> Iterator[tuple['Figure', 'Axes']]:
  """A figure in our style, and its axes; draw and `save` inside of the `with` block.

  Texts that come from outside go through `annotate`, `legend` or `printable`: matplotlib refuses what is no UTF-8.

  Args:
    width, height: inches.
  """
  matplotlib = extras.need('matplotlib', 'eval')
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  with matplotlib.rc_context(_STYLE):
    made = Figure((width, height), dpi=120)
    FigureCanvasAgg(made)
    made.set_layout_engine('constrained', w_pad=0.1, h_pad=0.06)  # inches: nothing touches the edge
    yield made, made.add_subplot()


def cannot_draw() -> str:
  """Why there can be no figures here; '' where there can."""
  try:
    extras.need('matplotlib', 'eval')
  except UserError as error:
    return f'no figures: {error}'
  return ''


def annotate(axes: 'Axes', *, title: str = '', xlabel: str = '', ylabel: str = '') -> None:
  """Title and names of the axes, as they are written: a '$' begins no formula."""
  axes.set_title(printable(title), parse_math=False)
  axes.set_xlabel(printable(xlabel), parse_math=False)
  axes.set_ylabel(printable(ylabel), parse_math=False)


def legend(figure: 'Figure', axes: 'Axes', names: Sequence[str], **place: Any) -> None:
  """A legend of what was drawn with `label='-'`, in that order.

  Args:
    names: one for each; any text.
    **place: of `Figure.legend`.
  """
  handles, _ = axes.get_legend_handles_labels()
  made = figure.legend(handles, ['-'] * len(handles), fontsize=9, **place)
  for text, name in zip(made.get_texts(), names, strict=True):  # afterwards: names that begin with '_' would be left out
    text.set_text(printable(name))
    text.set_parse_math(False)


@overload
def save(figure: 'Figure', kind: Literal['svg']) -> str: ...
@overload
def save(figure: 'Figure', kind: Literal['png']) -> bytes: ...
@overload
def save(figure: 'Figure', kind: str) -> str | bytes: ...
def save(figure: 'Figure', kind: str) -> str | bytes:
  """SVG text or PNG bytes, the same for the same picture.

  Raises:
    UserError: `kind` is neither 'svg' nor 'png'.
  """
  out = io.BytesIO()
  if kind == 'svg':
    figure.savefig(out, format='svg', metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None})
    return out.getvalue().decode()
  if kind == 'png':
    figure.savefig(out, format='png')
    return out.getvalue()
  raise UserError(f"kind is '{kind}': it must be 'svg' or 'png'.")

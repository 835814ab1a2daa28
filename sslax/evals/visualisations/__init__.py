"""Pictures to look at: sheets of images, maps of features, curves, bars. Nothing is shown or written: results are PIL images,
PNG bytes or SVG text.

Any text may go in: what cannot be drawn, or is no text in UTF-8, becomes a replacement character (`printable`).
"""

from sslax.evals.visualisations.bar_chart import bars
from sslax.evals.visualisations.canvas import annotate, cannot_draw, figure, legend, save
from sslax.evals.visualisations.colours import DASHES, FAINT, INK, MARKERS, OTHER, PALETTE, PAPER, SAME, enlarged, heat, rgb
from sslax.evals.visualisations.line_chart import curves, running_mean, thin
from sslax.evals.visualisations.maps import feature_map
from sslax.evals.visualisations.neighbours import neighbours_sheet
from sslax.evals.visualisations.sheets import png, sheet
from sslax.evals.visualisations.text import printable
from sslax.evals.visualisations.views import views_sheet

__all__ = [
  'DASHES', 'FAINT', 'INK', 'MARKERS', 'OTHER', 'PALETTE', 'PAPER', 'SAME',
  'annotate', 'bars', 'cannot_draw', 'curves', 'enlarged', 'feature_map', 'figure', 'heat', 'legend', 'neighbours_sheet', 'png',
  'printable', 'rgb', 'running_mean', 'save', 'sheet', 'thin', 'views_sheet',
]  # fmt: skip

"""The name by which scripts import the pictures."""

from sslax.evals import pictures, visualisations


def test_the_public_names_of_before_are_there():
  names = 'sheet views_sheet neighbours_sheet feature_map curves bars rgb enlarged heat png'.split()
  names += 'PALETTE MARKERS DASHES PAPER INK FAINT SAME OTHER'.split()
  assert all(getattr(pictures, name) is getattr(visualisations, name) for name in names)

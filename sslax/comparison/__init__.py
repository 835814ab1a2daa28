"""The room behind `compare`: which runs, with what in common; each trained and probed once; one table and one page of all."""

from sslax.comparison.run import Comparison
from sslax.comparison.stop import Stop

__all__ = ['Comparison', 'Stop']

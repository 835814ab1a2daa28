"""Results for people: one HTML page with tables and figures, and the same tables on the terminal."""

from sslax.evaluation.page.document import html, write
from sslax.evaluation.page.table import Table, best_cells, text_table

__all__ = ['Table', 'best_cells', 'html', 'text_table', 'write']

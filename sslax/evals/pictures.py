"""What scripts import by this name: `sslax.evals.visualisations`."""

from sslax.evals.visualisations import *  # noqa: F403

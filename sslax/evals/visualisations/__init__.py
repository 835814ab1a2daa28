from sslax.evals.pictures import *  # noqa: F403  TEMPORARY until the pages are merged

"""The room behind `sslax.evaluate`: which checkpoints, whose features, which probes; eval.jsonl, a table and a report."""

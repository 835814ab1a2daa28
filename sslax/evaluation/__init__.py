"""The room behind `sslax.evaluate`: which checkpoints, whose features, which probes; results in eval.jsonl, a table and a report."""

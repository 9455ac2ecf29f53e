"""Commands behind `golf`: runs: their log, a live view, curves, and the pipeline of make run."""

"""Commands behind `golf`: what a run will need and give, and how fast a step is."""

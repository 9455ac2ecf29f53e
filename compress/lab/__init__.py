"""Measuring the coder: benches, peers, spreads and plots. It reads data, and nothing outside imports it."""

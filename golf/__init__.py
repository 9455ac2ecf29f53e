"""Facts that have one home and that every other package reads: formats, tracks, text, statistics, the box; and `golf`."""

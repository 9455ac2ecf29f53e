"""Facts that have one home and that all other packages read: formats, tracks, text, statistics, the box; and `golf`."""

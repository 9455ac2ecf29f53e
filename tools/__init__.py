"""Commands around training and scoring; each runs as `python tools/NAME.py`."""

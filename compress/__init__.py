"""From a training run to one .golf file: quantise the weights, code them, minify the source, pack and check the size.

The format is docs/format.md. The command line is `python -m compress`. Nothing here reads training or held-out data.
"""

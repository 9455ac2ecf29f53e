"""From a training run to one .golf file: quantise the weights, code them, minify the source, pack and check the file.

The format is docs/format.md. The command line is `python -m compress`. Nothing here reads training or held-out data;
what does, to measure the coder, is in compress/lab, which only the command line starts.

The modules in the order of the work, of which each imports none that stands after it:
checkpoint, codes, trellis, decode -> gptq, allocate, quantise -> entropy, rates, sizes -> reach, reflection, minify,
verify, same, pack; beside them report (what is shown), bounded (a child with limits) and decode_in_box (a program for
the box).
"""

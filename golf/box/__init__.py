"""The box: where code of a stranger runs, for the scorer, the packer's check and whoever reads a script."""

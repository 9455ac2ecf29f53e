"""Commands behind `golf`: many runs from one file, and the table of techniques."""

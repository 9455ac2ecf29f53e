"""One run seen as a whole: golf show."""

"""Measurements of the scorer itself; nothing here runs while an artifact is scored."""

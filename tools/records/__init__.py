"""Commands behind `golf`: records: made, checked, compared, shown."""

"""Commands behind `golf`: builds data sets and checks them."""

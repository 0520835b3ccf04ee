"""Image towers and what encodes with them."""

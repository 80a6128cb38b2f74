"""Which concept each token got, and how that is shown."""

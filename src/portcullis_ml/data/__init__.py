"""Data sets by name, and who holds which rows of them."""

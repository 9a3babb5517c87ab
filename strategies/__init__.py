"""How updates become the next parameters: one published method a file."""

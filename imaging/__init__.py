"""From files to tensors at a site."""

"""Networks that take whatever modalities a case has, their losses and their measures."""

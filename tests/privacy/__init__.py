"""Each guarantee of `privacy/`, and for each a mutant that breaks it and is caught."""

"""Says which part a crop shows: an embedding trained on rendered views, and a search among them."""

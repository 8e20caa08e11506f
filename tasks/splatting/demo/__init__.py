"""A room made on the spot, and its film."""

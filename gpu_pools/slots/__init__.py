"""A slot of a device as kernel locks and files on this host."""

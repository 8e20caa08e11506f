"""Whether a device computes rightly and fast, tried on generated data in minutes."""

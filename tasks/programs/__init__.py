"""A person's own command on a slot, with its output on the terminal and in the run."""

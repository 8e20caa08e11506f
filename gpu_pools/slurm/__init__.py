"""Hands runs to Slurm, which decides when and where they start, and follows them to their end."""

"""Trains an embedding by metric learning, and goes on after a cut."""

"""Trains a detector: scenes as batches, the loop, and the training in its folder."""

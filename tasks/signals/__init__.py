"""Reads and synthesises radio recordings, and draws spectrograms; knows no pipeline."""

"""Inference: a trained classifier names what is on pictures, in videos and in radio recordings."""

"""Evaluates a trained model, and decides whether it is promoted."""

"""Gaussians to an image and back, on a CPU and on a GPU. No loss, no optimiser."""

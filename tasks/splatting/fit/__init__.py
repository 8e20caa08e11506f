"""Fits Gaussians to images: the loop, its state, and how Gaussians are added and removed."""

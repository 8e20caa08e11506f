"""Draws Gaussians on a CPU and on a GPU, with gradients; knows no loss and no optimiser."""

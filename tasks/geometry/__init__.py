"""Rotations and spherical harmonics on arrays and tensors, and how kernels are compiled. Knows no pipeline."""

"""Rotations, spherical harmonics and compiled kernels; knows no pipeline."""

"""Recipes: the order of the steps, nothing else."""

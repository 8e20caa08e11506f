"""Finds the camera poses with COLMAP, and checks them; knows no fit."""

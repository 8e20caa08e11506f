"""Writes a fitted splat in the formats people use: PLY, SPZ, glTF, videos, viewer."""

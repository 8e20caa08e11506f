"""A fitted splat in the forms people use: PLY, SPZ, glTF, videos, viewer."""

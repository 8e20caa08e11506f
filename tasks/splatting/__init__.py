"""Video in, 3D Gaussian splat out: frames, poses, fitting, results."""

"""Makes 3D Gaussian splats from videos: frames, camera poses, fit, results."""

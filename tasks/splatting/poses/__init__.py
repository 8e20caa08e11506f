"""From where the images were taken: COLMAP and the check of what it found. No fit."""

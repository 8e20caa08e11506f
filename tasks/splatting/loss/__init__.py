"""How far a drawn image is from the one that was taken, and what a splat is worth."""

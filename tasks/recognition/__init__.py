"""Parts given as meshes: rendered, found in images, and told apart."""

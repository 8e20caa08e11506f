"""What a trained model is worth, and whether it is promoted."""

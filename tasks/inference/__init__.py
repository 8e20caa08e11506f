"""Predicts the classes of images, videos and radio recordings with a trained model."""

"""Image classification: split, augment, train and evaluate any folder of classes."""

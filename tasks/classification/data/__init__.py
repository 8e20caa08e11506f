"""A folder of classes as subsets, augmented copies and batches. No model."""

"""A folder of classes as subsets, augmented copies and batches; knows no model."""

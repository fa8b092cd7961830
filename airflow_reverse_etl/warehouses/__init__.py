"""Where models are: readers that yield Arrow batches."""

"""What a model remembers of its earlier self or of earlier batches."""

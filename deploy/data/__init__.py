"""Image folders and arrays → batches, in memory that does not grow with their number."""

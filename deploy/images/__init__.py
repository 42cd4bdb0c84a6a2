"""Images: decoding, preprocessing, and what a classifier's output says."""

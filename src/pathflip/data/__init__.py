"""Files to batches: patches grouped into regions, captions into sub-captions, both into padded tensors."""

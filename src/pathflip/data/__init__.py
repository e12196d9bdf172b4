"""Files to batches: patches grouped into regions, captions into statements, both into padded tensors."""

"""From shards to batches: who reads what, crops, augmentation, and on a GPU what waits there."""

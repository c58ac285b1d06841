"""From shards to batches: who reads what, crops, augmentation, target heatmaps and their decoding."""

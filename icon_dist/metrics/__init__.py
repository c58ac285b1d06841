"""Scores of poses: one per metric, in plain numpy, pycocotools where it is the reference."""

"""What poses are worth: one score per metric, in plain numpy, pycocotools where it is the reference."""

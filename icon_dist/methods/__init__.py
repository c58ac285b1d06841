"""What a training step computes from a batch: supervised, or on people without labels as well (paper Eq. 6-7)."""

"""Small tools on tensors that torch does not have, or not under a public name."""

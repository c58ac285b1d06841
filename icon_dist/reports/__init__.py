"""Pages and pictures about trained models."""

"""Poses of instances by a trained model."""

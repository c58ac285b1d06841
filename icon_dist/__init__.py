"""ICON: Inter-image Contrastive Consistency for multi-person pose estimation, trained on a cluster."""

__version__ = "0.1.0"

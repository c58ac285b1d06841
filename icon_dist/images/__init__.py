"""Image files: what their headers say, how they are decoded, and how a crop is encoded."""

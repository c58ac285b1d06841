"""What a run tells of itself, and who records and shows it: files, TensorBoard, a terminal, services."""

"""The diagonal of a model's Fisher information: measured by a stage of its own, read by ranks."""

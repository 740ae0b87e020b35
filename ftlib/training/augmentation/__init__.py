"""What is changed of a row each time it is trained on. Belongs to the train stage."""

from ftlib.training.augmentation.images import ImageAugmentation

Augmentation = ImageAugmentation
"""A second member makes it a union that is told apart by `kind`, as tunings are; pydantic has no union of one."""

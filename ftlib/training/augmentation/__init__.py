"""What is changed of a row each time it is trained on. Belongs to the train stage."""

from typing import Annotated

from pydantic import Field

from ftlib.training.augmentation.images import ImageAugmentation
from ftlib.training.augmentation.mirrored_images import Mirror

Augmentation = Annotated[ImageAugmentation | Mirror, Field(discriminator="kind")]

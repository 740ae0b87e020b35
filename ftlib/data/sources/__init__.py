"""Where rows come from: bytes to rows. Belongs to the ingest stage."""

from typing import Annotated

from ftlib.data.sources.coco import Coco
from ftlib.data.sources.feedback import Feedback
from ftlib.data.sources.files import Files
from ftlib.data.sources.huggingface import HuggingFace
from ftlib.data.sources.image_folder import ImageFolder
from ftlib.data.sources.installed_text import InstalledText
from ftlib.data.sources.sql import Sql
from ftlib.extensions import Open

Source = Annotated[Files | HuggingFace | InstalledText | ImageFolder | Sql | Feedback | Coco, Open("reglage.source")]

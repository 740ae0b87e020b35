"""Kinds whose rows are images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlib.kinds import snippets
from ftlib.kinds.outcomes import BoxOutcomes, DenoisedOutcomes, LabelOutcomes
from ftlib.kinds.predictions import BoxPredictor, CaptionPredictor, ImageLabelPredictor
from ftlib.kinds.table.row import Kind

if TYPE_CHECKING:
    from ftlib.kinds.heads.base import Head


def _image_label_head() -> Head:
    from ftlib.kinds.heads.image_labels import ImageLabelHead

    return ImageLabelHead()


def _captioned_image_head() -> Head:
    from ftlib.kinds.heads.captioned_images import CaptionedImageHead

    return CaptionedImageHead()


def _box_head() -> Head:
    from ftlib.kinds.heads.boxes import BoxHead

    return BoxHead()


ROWS = (
    Kind(
        name="labeled_images",
        taught_as="labeled",
        head=_image_label_head,
        outcomes=LabelOutcomes,
        predictor=ImageLabelPredictor,
        least_labels=2,
        whole_tags=False,
        modality="images",
        language=False,
        vocabulary=False,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForImageClassification",
        architectures=("ForImageClassification",),
        task_type=None,
        pipeline="image-classification",
        title="Image classification",
        answers="one of them to any image",
        snippet=snippets.IMAGE,
        note="",
    ),
    Kind(
        name="captioned_images",
        taught_as="captioned_images",
        head=_captioned_image_head,
        outcomes=DenoisedOutcomes,
        predictor=CaptionPredictor,
        least_labels=0,
        whole_tags=False,
        modality="images",
        language=False,
        vocabulary=True,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="UNet2DConditionModel",
        architectures=("Denoiser",),
        task_type=None,
        pipeline="text-to-image",
        title="Text to image",
        answers="",
        snippet=snippets.DRAWN,
        note="The first noise of an image is drawn by a generator of the CPU from its seed: the same seed, steps and "
        "guidance draw the same image.",
    ),
    Kind(
        name="boxed_images",
        taught_as="boxed_images",
        head=_box_head,
        outcomes=BoxOutcomes,
        predictor=BoxPredictor,
        least_labels=1,
        whole_tags=False,
        modality="images",
        language=False,
        vocabulary=False,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForObjectDetection",
        architectures=("ForObjectDetection",),
        task_type=None,
        pipeline="object-detection",
        title="Object detection",
        answers="any number of them to an image, each in a box",
        snippet=snippets.BOXES,
        note="Boxes are in pixels of the image. Each has a score of its own; no suppression of overlaps is needed.",
    ),
)

"""How a published model answers a user's text, one file for each kind that a user asks here."""

from ftlib.kinds.predictions.base import Asked, Prediction, Predictor, Unasked
from ftlib.kinds.predictions.boxed_images import BoxPrediction, BoxPredictor
from ftlib.kinds.predictions.chats import ChatPredictor
from ftlib.kinds.predictions.drawn_images import CaptionPredictor, DrawnImage
from ftlib.kinds.predictions.image_labels import ImageLabelPrediction, ImageLabelPredictor
from ftlib.kinds.predictions.labels import LabelPrediction, LabelPredictor
from ftlib.kinds.predictions.masked import HiddenPrediction, HiddenPredictor
from ftlib.kinds.predictions.multi_labels import MultiLabelPrediction, MultiLabelPredictor
from ftlib.kinds.predictions.retrieved import VectorPrediction, VectorPredictor
from ftlib.kinds.predictions.scores import ScorePrediction, ScorePredictor
from ftlib.kinds.predictions.spans import FoundAnswer, SpanPredictor
from ftlib.kinds.predictions.tagged import EntityPredictor, FoundEntities, FoundEntity
from ftlib.kinds.predictions.text import TextPredictor, WrittenText

__all__ = [
    "Asked",
    "BoxPrediction",
    "BoxPredictor",
    "CaptionPredictor",
    "ChatPredictor",
    "DrawnImage",
    "EntityPredictor",
    "FoundAnswer",
    "FoundEntities",
    "FoundEntity",
    "HiddenPrediction",
    "HiddenPredictor",
    "ImageLabelPrediction",
    "ImageLabelPredictor",
    "LabelPrediction",
    "LabelPredictor",
    "MultiLabelPrediction",
    "MultiLabelPredictor",
    "Prediction",
    "Predictor",
    "ScorePrediction",
    "ScorePredictor",
    "SpanPredictor",
    "TextPredictor",
    "Unasked",
    "VectorPrediction",
    "VectorPredictor",
    "WrittenText",
]

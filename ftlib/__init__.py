"""The library of Réglage: typed stages of a fine-tuning pipeline, with no orchestrator in them."""

__version__ = "0.2.0"

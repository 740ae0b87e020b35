"""Kinds of batch: how a model of each is loaded, what it is taught, and what it is heard to say."""

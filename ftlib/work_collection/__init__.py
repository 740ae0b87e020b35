"""What lies in a work place, who needs it (`needs`), and how what nobody does is deleted (`in_folder`, `in_bucket`)."""

from ftlib.work_collection.in_bucket import BucketCollector
from ftlib.work_collection.in_folder import (
    CACHED,
    SHARED,
    WorkCollector,
    alone_in,
    collect_cache,
    discard,
    size_of,
)
from ftlib.work_collection.needs import DAY, Retention, WorkCollected, WorkItem, WorkPolicy

__all__ = [
    "CACHED",
    "DAY",
    "SHARED",
    "BucketCollector",
    "Retention",
    "WorkCollected",
    "WorkCollector",
    "WorkItem",
    "WorkPolicy",
    "alone_in",
    "collect_cache",
    "discard",
    "size_of",
]

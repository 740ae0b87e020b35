"""The place where stages leave their output: one for each (stage, fingerprint), complete or absent.

    stages/<stage>/<fingerprint>              what a stage made (`in_folder`, `in_bucket`: how it is kept)
    outcomes/ divergences/ pins/ listings/    files whose name says their content, which many outputs share
    runs/<recipe name>/                       report.html, run.json of the last run; history/, what each run used;
                                              published/, where its versions lie
    users/<process>.lock                      of a folder: held by a process that uses it, until it ends

It is a folder, or a prefix of a bucket. `ftlib.work_collection` deletes what nobody needs of a folder, and keeps to its
locks.
"""

from ftlib.storage.locks import exclusive
from ftlib.storage.user_cache import make_cache, user_cache
from ftlib.workspace.in_bucket import InBucket
from ftlib.workspace.kept import add, overwrite
from ftlib.workspace.records import RECORD, read_record, write_durably
from ftlib.workspace.users import enter, gate_of, leave, users_in
from ftlib.workspace.workspace import Workspace

__all__ = [
    "RECORD",
    "InBucket",
    "Workspace",
    "add",
    "enter",
    "exclusive",
    "gate_of",
    "leave",
    "make_cache",
    "overwrite",
    "read_record",
    "user_cache",
    "users_in",
    "write_durably",
]

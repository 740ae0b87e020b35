"""What some files hold, guessed from a bounded sample of their rows: source, format and split, each with its reason.

    guess([Path("tickets.csv")], "tickets", Path())      rows: which column is the text, which the label
    guess([Path("log.jsonl")], "answers", Path())        a log of feedback: which datasets it makes
    guess([Path("icons/")], "icons", Path())             a folder of images: which folder names the label
    guess([Path("instances.json")], "photos", Path())    a COCO file: where its images lie

A guess is tried before it is made: the format reads the sample, and the policy splits it. So what is proposed works on
the rows that were looked at, and is no promise about the others.
"""

from ftlib.data.guess.guess import guess
from ftlib.data.guess.record import Guess, LogRows

__all__ = ["Guess", "LogRows", "guess"]

"""Whether fresh rows are worth a training, challenger against champion, and a person's say in it."""

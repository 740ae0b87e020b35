"""Work on rows in passes over blocks: plain functions of a block, an executor that maps them, files between passes."""

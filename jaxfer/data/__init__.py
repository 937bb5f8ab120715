"""Data: sources with random access, one pure index order, images, and batches made by Grain."""

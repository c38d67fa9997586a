"""Store and ground truth in, reports out; one file per analysis."""

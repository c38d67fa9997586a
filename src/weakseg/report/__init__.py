"""Self-contained HTML and figures from a run folder."""

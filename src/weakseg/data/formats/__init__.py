"""One file per annotation tool."""

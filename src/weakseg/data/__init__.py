"""Bytes to types and back: layouts, images, transforms, the store. Imports ops and types only."""

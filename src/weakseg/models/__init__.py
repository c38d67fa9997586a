"""Networks that return their features."""

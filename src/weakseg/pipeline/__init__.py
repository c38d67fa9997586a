"""Recipes as lists of steps: skip what is done, resume what is half done, write down what was done."""

"""What the rooms say to each other: recipes, groups, updates, messages, metrics, errors.

Imports nothing else of ours, so that every other room may import it.
"""

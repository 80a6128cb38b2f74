"""Train a concept model."""

"""Measure one concept model: salience, ablation, bottleneck."""

"""Experiments: many runs declared in a YAML file, planned, run, and their results put together.

Data flows declaration -> plan -> execution -> result.json -> report; `python -m experiments` is the way in. Figures are
drawn from one run's folder.
"""

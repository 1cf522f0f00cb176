"""Reads what evaluations predicted."""

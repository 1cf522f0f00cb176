"""Carries out a plan: the launcher, its jobs and workers, its progress; and a single run in the foreground."""

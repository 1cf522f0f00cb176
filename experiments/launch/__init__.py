"""Doing what is planned: processes, workers, jobs on a cluster, progress."""

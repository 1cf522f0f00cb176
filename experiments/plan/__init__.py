"""What shall be run: the declaration, the methods and their recipes, the runs and their folders."""

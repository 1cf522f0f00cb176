"""What is to be run: the declaration, the methods and their recipes, the runs and their folders."""

"""A generated image world, its data sets, and a small CLIP pre-trained on it; no downloads needed."""

from dassl.command_line import end_imports_of_package_in_one_line

end_imports_of_package_in_one_line()

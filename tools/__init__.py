"""Programs for those who work on the project."""

from dassl.command_line import end_imports_of_package_in_one_line

end_imports_of_package_in_one_line()

"""What an editable install of a clone has beside `dassl`: the command `prometar`.

pyproject.toml describes the wheel, which is `dassl` alone: other repositories install it in place of Dassl. The command
needs the clone, so only `pip install -e .` in a clone installs it.
"""

from setuptools import setup
from setuptools.command.editable_wheel import editable_wheel


class EditableClone(editable_wheel):
    """Adds the module and the command to the installed project."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.distribution.py_modules = ["prometar"]
        # setuptools itself adds this attribute to distutils' class
        self.distribution.entry_points = {"console_scripts": ["prometar = prometar:main"]}  # pyright: ignore[reportAttributeAccessIssue]


setup(cmdclass={"editable_wheel": EditableClone})

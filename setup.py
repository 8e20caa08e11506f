"""Puts into a wheel the files at the top of the checkout that the packages read; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = ("prefect.yaml", "mlflow/server.env")


class BuildWithFiles(build_py):
    """Copies the files to where `tasks.base.project_files` looks for them; an editable install reads the checkout's."""

    def run(self) -> None:
        """Build the packages, then add the files."""
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)  # an earlier build left modules that are gone since
        super().run()
        for name in FILES:
            copy = Path(self.build_lib, "tasks", "base", "project", name)
            self.mkpath(str(copy.parent))
            self.copy_file(name, str(copy))

    def get_source_files(self) -> list[str]:
        """Return what a source distribution needs: the files, too."""
        return [*super().get_source_files(), *FILES]


setup(cmdclass={"build_py": BuildWithFiles})

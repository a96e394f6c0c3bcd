"""What pyproject.toml cannot say: wheels carry the reward for real clips, which lies outside of the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithWeights(build_py):
    """Adds ICReward lite and the domain gauge, as `icreward_lib/checkpoints/laptop/...`."""

    def run(self) -> None:
        """Copy them beside the modules, but for editable installs."""
        super().run()
        for name in () if self.editable_mode else ("icreward-lite", "domain"):
            folder = Path("checkpoints", "laptop", name)
            shutil.copytree(folder, Path(self.build_lib, "icreward_lib", folder), dirs_exist_ok=True)


setup(cmdclass={"build_py": WithWeights})

"""What pyproject.toml can't say: a wheel holds configs/, as jaxfer/shipped/configs, so `jaxfer run digits` works."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:  # an editable install reads the repository's own folder
            for source, target in self._configs():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode=1):
        return super().get_outputs(include_bytecode) + [str(target) for _, target in self._configs()]

    def _configs(self):
        sources = sorted(Path(__file__).parent.joinpath("configs").glob("*.py"))
        return [(source, Path(self.build_lib, "jaxfer", "shipped", "configs", source.name)) for source in sources]


setup(cmdclass={"build_py": BuildWithConfigs})

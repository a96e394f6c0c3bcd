"""The ground of a run: settings, files, stages that resume, processes, models on disk, notebooks."""

from icreward_lib.run.run import Run, start

__all__ = ["Run", "start"]

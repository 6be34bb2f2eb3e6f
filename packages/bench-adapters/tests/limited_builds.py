"""An environment for tests of workers; they import this file, as they cannot import a test."""

from bench_adapters.testing import FaultyEnvironment


class LimitedBuilds(FaultyEnvironment):
    """Can be built so many times only; each build leaves a file in ``folder``."""

    def __init__(self, folder, count, error):
        built = len(list(folder.iterdir()))
        if built == count:
            raise error
        (folder / f"{built}").touch()
        super().__init__(fault="exit")

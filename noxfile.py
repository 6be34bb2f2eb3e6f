"""Every check of the monorepo: `nox` runs the test command, `nox -l` lists the sessions."""

import itertools
import json
import os
import tarfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PACKAGES = {
    "progress-labels": "progress_labels",
    "value-models": "value_models",
    "vla-rl": "vla_rl",
    "bench-adapters": "bench_adapters",
}
EXTRAS = {
    "progress-labels": "[viz]",
    "value-models": "[viz]",
    "vla-rl": "",
    "bench-adapters": "[maniskill]",
}
TEST_EXTRAS = {
    "progress-labels": "[rerun,ruptures,viz]",
    "value-models": "[lora,viz]",
    "vla-rl": "[lora]",
    "bench-adapters": "[hdf5,lightning,maniskill,robotwin]",
}
# Threads that wait for work must not spin: simulators and the policy share the cores.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
CONSTRAINTS = ["-c", ".ci/constraints.txt"]
PYPROJECT = nox.project.load_toml("pyproject.toml")

# uv does not read pip's configuration: unless it is told where CPU builds of torch are, it fetches
# gigabytes of CUDA libraries. Then the slower backend is the faster one.
uv_knows_torch = any(os.environ.get(name) for name in ("UV_TORCH_BACKEND", "UV_FIND_LINKS"))
nox.options.default_venv_backend = "uv|virtualenv" if uv_knows_torch else "virtualenv"
nox.options.sessions = ["lint", "types", "wheels", "tests", "integration"]
nox.options.error_on_external_run = True
nox.options.reuse_existing_virtualenvs = True


def group(name: str) -> list[str]:
    """Return the requirements of one dependency group of the root pyproject.toml."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def install_all(session: nox.Session, *extra: str, extras: dict[str, str] = EXTRAS) -> None:
    """Install the four packages from source, editable, with their extras."""
    sources = [item for dist in PACKAGES for item in ("-e", f"packages/{dist}{extras[dist]}")]
    session.install(*CONSTRAINTS, *sources, *extra)


def prepare_simulator(session: nox.Session) -> None:
    """Install what software rendering lacks on this machine; changes nothing when all is well."""
    session.run("bench-adapters", "doctor", "--fix")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling and who imports whom."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell", "packages", "integration_tests", "README.md", "noxfile.py")
    sources = os.pathsep.join(f"packages/{dist}/src" for dist in PACKAGES)
    session.run("lint-imports", env={"PYTHONPATH": sources})


@nox.session
def types(session: nox.Session) -> None:
    """Check types of the sources and, where the four meet, of the integration tests."""
    install_all(session, *group("types"), *group("test"), extras=TEST_EXTRAS)
    session.run("mypy", *(f"packages/{dist}/src" for dist in PACKAGES), "integration_tests")


@nox.session
@nox.parametrize("package", list(PACKAGES))
def tests(session: nox.Session, package: str) -> None:
    """Test one package, installed alone."""
    requirements = group("test")
    session.install(*CONSTRAINTS, "-e", f"packages/{package}{TEST_EXTRAS[package]}", *requirements)
    absent = "import importlib.util as u; assert u.find_spec('torchvision') is None, 'torchvision'"
    session.run("python", "-c", absent)
    if package == "bench-adapters":
        prepare_simulator(session)
    session.run("pytest", f"packages/{package}", *session.posargs, env=PASSIVE)


@nox.session
def integration(session: nox.Session) -> None:
    """Test the contracts between the packages, their public API and a small real ring."""
    install_all(session, *group("test"))
    prepare_simulator(session)
    session.run("pytest", "integration_tests", *session.posargs, env=PASSIVE)


@nox.session
@nox.parametrize("package", list(PACKAGES))
def wheels(session: nox.Session, package: str) -> None:
    """Build sdist and wheel, install the wheel alone and import every public name."""
    session.install("build")
    out = Path(session.create_tmp()).resolve()
    for old in out.glob("*.*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(out), f"packages/{package}", silent=True)
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    missing = {"LICENSE", "README.md", "pyproject.toml"} - names
    if missing:
        session.error(f"{sdist.name} lacks {sorted(missing)}")
    session.install(*CONSTRAINTS, str(wheel))
    check = (
        "import importlib, pkgutil, sys\n"
        f"module = importlib.import_module({PACKAGES[package]!r})\n"
        "missing = [name for name in module.__all__ if not hasattr(module, name)]\n"
        "assert not missing, missing\n"
        "assert 'site-packages' in module.__file__, module.__file__\n"
        "assert 'lightning' not in sys.modules, 'importing the package imports lightning'\n"
        "print(module.__name__, module.__version__, len(module.__all__), 'public names')\n"
    )
    with session.chdir(out):
        session.run("python", "-I", "-c", check)
        session.run(package, "--help", silent=True)


@nox.session
def quickstart(session: nox.Session) -> None:
    """Record, label, train a value model, fine-tune a policy, evaluate; writes a report."""
    install_all(session)
    prepare_simulator(session)
    command = ["python", "-m", "integration_tests.pipelines.quickstart", *session.posargs]
    session.run(*command, env=PASSIVE)


@nox.session
def study(session: nox.Session) -> None:
    """Check the papers' claims, for hours; `nox -s study -- --profile ci` takes minutes."""
    extras = dict(EXTRAS)
    if os.environ.get("CALVIN_ROOT"):  # one claim needs a clone of CALVIN, and what runs it
        extras["bench-adapters"] = "[calvin,maniskill]"
    install_all(session, *group("test"), extras=extras)
    prepare_simulator(session)
    session.run("python", "-m", "integration_tests.study", *session.posargs, env=PASSIVE)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, as ratios within one run: `nox -s bench -- bench_adapters`, all without a name.

    One script, with options: `nox -s bench -- value_models.bench_tasks --seeds 0`.
    """
    wanted = list(itertools.takewhile(lambda word: not word.startswith("-"), session.posargs))
    scripts = {
        f"{module}.{script.stem}": script
        for dist, module in PACKAGES.items()
        for script in benchmarks(dist)
    }
    chosen = [name for name in scripts if not wanted or {name, name.split(".")[0]} & set(wanted)]
    if not chosen:
        session.error(f"{wanted} is neither a package nor one of {sorted(scripts)}")
    install_all(session)
    prepare_simulator(session)
    for name in chosen:
        session.run("python", str(scripts[name]), *session.posargs[len(wanted) :])


def benchmarks(dist: str) -> list[Path]:
    """Return the benchmark scripts of one package."""
    return sorted((ROOT / "packages" / dist / "benchmarks").glob("bench_*.py"))


@nox.session
def release_check(session: nox.Session) -> None:
    """Check that a tag names a package and its version: `nox -s release_check -- vla-rl-v0.1.0`."""
    session.install("hatch", "twine", "build")
    (tag,) = session.posargs
    package, _, version = tag.rpartition("-v")
    if package not in PACKAGES:
        session.error(f"tag {tag!r} does not name one of {json.dumps(list(PACKAGES))}")
    with session.chdir(f"packages/{package}"):
        found = str(session.run("hatch", "version", silent=True)).strip().splitlines()[-1]
        if found != version:
            session.error(f"tag {tag!r} says {version}, packages/{package} is at {found}")
        session.run("python", "-m", "build", "--outdir", str(ROOT / "dist"))
    session.run("twine", "check", "--strict", *map(str, sorted((ROOT / "dist").glob("*"))))

"""Make ``.venv`` ready: uv, a Python that is new enough, the locked packages, the project.

Run by make and by ``.ci/run`` with whatever Python 3 the machine has, so it uses the
standard library only and the syntax of old versions. It does nothing when the
environment already holds what the lock and ``pyproject.toml`` ask for.

The steps:

1. uv: the one on the path, else one installed by pip into ``.tools``. A private folder,
   because many systems do not let pip touch their own packages (PEP 668).
2. Python 3.13: one that is there (on the path, or kept by pyenv), else a newer one, else
   uv brings 3.13.
3. ``requirements-dev.txt`` with its hashes, then the project itself, editable.

``AEGIS_PYTHON`` names an interpreter to use instead of the search.

4. ``requirements-vnpy.txt``, without what vnpy depends on: a desktop, which no test needs.

With ``--ctp`` it installs vnpy's gateways to CTP besides (``requirements-ctp.txt``), which are
compiled here: that takes a C++ compiler and a minute.

With ``--debian`` it installs what some tests need besides, as packages of Debian: only root
on a system with apt can, and elsewhere those tests are skipped. ``.ci/run`` asks for it;
``make test`` does not, as nobody expects that of it.
"""

import contextlib
import glob
import hashlib
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
TOOLS = os.path.join(ROOT, ".tools")
LOCK = os.path.join(ROOT, "requirements-dev.txt")
VNPY_LOCK = os.path.join(ROOT, "requirements-vnpy.txt")
CTP_LOCK = os.path.join(ROOT, "requirements-ctp.txt")
STAMP = os.path.join(VENV, ".aegis-setup")
MINIMUM = (3, 13)

# Programs that no package of Python holds, by the package of Debian that holds them.
DEBIAN_PROGRAMS = {
    "chromium": "chromium",
    "locales": "locale-gen",
    "prometheus": "prometheus",
}
# Debian asks this program whether an installed service may start; 101 says no.
SERVICE_POLICY = "/usr/sbin/policy-rc.d"


def main():
    if sys.argv[1:] == ["--uv"]:
        # For `make lock`, which must work when the lock is out of date.
        print(find_uv())
        return
    if sys.argv[1:] == ["--debian"]:
        install_debian_packages()
        return
    if sys.argv[1:] == ["--ctp"]:
        install_gateways()
        return
    wanted = fingerprint()
    if is_ready(wanted):
        return
    uv = find_uv()
    environment = uv_environment()
    if not is_usable(venv_python()):
        say("making .venv")
        run([uv, "venv", "--quiet", "--clear", "--python", find_python(uv), VENV], environment)
    install = [uv, "pip", "install", "--quiet", "--python", venv_python()]
    say("installing the locked packages")
    run([*install, "--require-hashes", "-r", LOCK], environment)
    run([*install, "--no-deps", "--require-hashes", "-r", VNPY_LOCK], environment)
    # hatchling is among the locked packages, so the build needs no isolation.
    run([*install, "--no-deps", "--no-build-isolation", "--editable", ROOT], environment)
    with open(STAMP, "w") as stamp:
        stamp.write(wanted)
    say("ready")


def fingerprint():
    digest = hashlib.sha256()
    for path in (LOCK, VNPY_LOCK, os.path.join(ROOT, "pyproject.toml"), os.path.abspath(__file__)):
        with open(path, "rb") as file:
            digest.update(file.read())
    # A virtual environment does not survive being moved.
    digest.update(ROOT.encode())
    return digest.hexdigest()


def is_ready(wanted):
    try:
        with open(STAMP) as stamp:
            return stamp.read() == wanted and os.path.exists(venv_python())
    except OSError:
        return False


def venv_python():
    return os.path.join(VENV, "bin", "python")


def find_uv():
    for candidate in (shutil.which("uv"), os.path.join(TOOLS, "bin", "uv")):
        if candidate and answers([candidate, "--version"]):
            return candidate
    say("installing uv into .tools")
    shutil.rmtree(TOOLS, ignore_errors=True)
    quiet = ["--quiet", "--disable-pip-version-check", "uv"]
    if answers([sys.executable, "-m", "venv", TOOLS]):
        run([os.path.join(TOOLS, "bin", "python"), "-m", "pip", "install", *quiet])
    elif answers([sys.executable, "-m", "pip", "--version"]):
        # A Python without ensurepip (Debian without python3-venv) but with pip.
        shutil.rmtree(TOOLS, ignore_errors=True)
        run([sys.executable, "-m", "pip", "install", "--target", TOOLS, *quiet])
    else:
        stop("this Python has neither venv nor pip: install one of them, or uv")
    uv = os.path.join(TOOLS, "bin", "uv")
    if not answers([uv, "--version"]):
        stop("uv was installed into .tools, but does not run: install uv by hand")
    return uv


def find_python(uv):
    """Return the interpreter to build on: a path, or a version that uv brings."""
    named = os.environ.get("AEGIS_PYTHON")
    if named:
        if not is_usable(shutil.which(named) or named):
            stop("AEGIS_PYTHON=%s is no Python %d.%d or later" % (named, *MINIMUM))
        return named
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for minor in range(MINIMUM[1], MINIMUM[1] + 4):
        found = [shutil.which("python%d.%d" % (MINIMUM[0], minor))]
        found += sorted(
            glob.glob(os.path.join(pyenv, "versions", "3.%d*" % minor, "bin", "python")),
            reverse=True,
        )
        for candidate in found:
            # A pyenv shim stands on the path also for versions that it does not serve.
            if candidate and is_usable(candidate, minor):
                return candidate
    if is_usable(sys.executable):
        return sys.executable
    say("no Python %d.%d is there: uv brings one" % MINIMUM)
    return "%d.%d" % MINIMUM


def is_usable(python, minor=None):
    code = (
        "import sys, sysconfig; v = sys.version_info; "
        "sys.exit(v < %r or v.releaselevel != 'final' or %r not in (None, v[1]) "
        "or bool(sysconfig.get_config_var('Py_GIL_DISABLED')))" % (MINIMUM, minor)
    )
    return os.path.exists(python) and answers([python, "-c", code])


def install_gateways():
    """Install what a feed needs to reach CTP into the environment that is there."""
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        stop("the gateways to CTP are compiled here: install g++ (Debian: apt-get install g++)")
    say("installing the gateways to CTP, which are compiled")
    install = [find_uv(), "pip", "install", "--quiet", "--python", venv_python()]
    run([*install, "--no-deps", "--require-hashes", "-r", CTP_LOCK], uv_environment())
    say("ready")


def install_debian_packages():
    """Install the packages that are missing; what cannot be installed is said and left out."""
    missing = sorted(
        package for package, program in DEBIAN_PROGRAMS.items() if shutil.which(program) is None
    )
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        say("not installed, since only root can, and with apt: %s; its tests are skipped" % names)
        return
    say("installing with apt: " + names)
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    with services_kept_off():
        # The second time with new lists: those of a fresh image are empty or old.
        if answers(install, environment):
            return
        answers(["apt-get", "update", "--quiet"], environment)
        if not answers(install, environment):
            say("apt could not install %s; its tests are skipped" % names)


@contextlib.contextmanager
def services_kept_off():
    """Let no service start that a package brings: the tests run the programs themselves."""
    if os.path.exists(SERVICE_POLICY):
        yield
        return
    with open(SERVICE_POLICY, "w") as policy:
        policy.write("#!/bin/sh\nexit 101\n")
    os.chmod(SERVICE_POLICY, 0o755)
    try:
        yield
    finally:
        os.remove(SERVICE_POLICY)


def uv_environment():
    """Pass what pip is set up with (a mirror, its certificate) on to uv, which does not ask pip."""
    environment = dict(os.environ)
    environment.pop("VIRTUAL_ENV", None)
    environment.setdefault("UV_HTTP_TIMEOUT", pip_setting("default-timeout") or "120")
    index = pip_setting("index-url")
    if index and "UV_INDEX_URL" not in environment:
        environment.setdefault("UV_DEFAULT_INDEX", index)
    certificate = pip_setting("cert")
    if certificate:
        environment.setdefault("SSL_CERT_FILE", certificate)
    return environment


def pip_setting(name):
    named = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if named:
        return named
    found = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global." + name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return found.stdout.decode().strip() if found.returncode == 0 else ""


def answers(command, environment=None):
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return False
    return done.returncode == 0


def run(command, environment=None):
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, cwd=ROOT)
    if done.returncode != 0:
        stop("failed: %s" % " ".join(command))


def say(text):
    print("setup: " + text, file=sys.stderr, flush=True)


def stop(text):
    say(text)
    sys.exit(1)


if __name__ == "__main__":
    main()

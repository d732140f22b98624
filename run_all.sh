#!/usr/bin/env bash
# Runs the notebooks of the companion. Not for clinical use.
#
#   ./run_all.sh                                  the mini runs: every stage of the method, offline, on a CPU
#   ./run_all.sh params/mini_llama.yaml --list    what is up to date, and why not
#   ./run_all.sh --test [pytest options]          the tests; without options the quick ones, with --all every one
#   ./run_all.sh --help                           all options
#
# An active virtual or conda environment is used if it has what pyproject.toml asks for. Else the project gets a .venv of
# its own, once: exact versions from constraints.txt, nothing outside this folder is touched.
set -euo pipefail

here="${BASH_SOURCE[0]}"
while [ -L "$here" ]; do  # follow links by hand: readlink -f is not everywhere
    folder="$(CDPATH= cd -P "$(dirname "$here")" && pwd)"
    here="$(readlink "$here")"
    case "$here" in /*) ;; *) here="$folder/$here" ;; esac
done
ROOT="$(CDPATH= cd -P "$(dirname "$here")" && pwd)"
VENV="$ROOT/.venv"
STAMP="$VENV/.made-from"  # what .venv was installed from; written last, so that an interrupted install has none

say() { echo "$*" >&2; }

# missing PYTHON EXTRA [exact]: what this interpreter lacks, in words; nothing when it has all. Reads metadata, imports no library.
missing() {
    "$1" - "$ROOT" "$2" "${3:-}" <<'PYTHON' 2>/dev/null || echo "a working Python"
import sys
if sys.version_info < (3, 11):
    print("Python 3.11 or newer (it is %d.%d)" % sys.version_info[:2])
    sys.exit()
sys.path.pop(0)  # the caller's folder
import re, tomllib
from importlib.metadata import PackageNotFoundError, version
root, extra, exact = sys.argv[1:]
def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
try:
    from packaging.requirements import Requirement
except ImportError:  # everything here depends on it, so this environment holds none of it
    print("the requirements of pyproject.toml")
    sys.exit()
project = tomllib.load(open(root + "/pyproject.toml", "rb"))["project"]
wanted = [Requirement(line) for line in project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])]
lacks = [str(need) for need in wanted if (not need.marker or need.marker.evaluate())
         and not ((found := installed(need.name)) and need.specifier.contains(found, prereleases=True))]
if exact:
    for name, pinned in re.findall(r"^([\w.-]+)==(\S+)", open(root + "/constraints.txt").read(), re.M):
        if (found := installed(name)) and found.split("+")[0] != pinned:
            lacks.append(f"{name}=={pinned}")
print(", ".join(lacks[:3]) + (f" and {len(lacks) - 3} more" if len(lacks) > 3 else ""))
PYTHON
}

# An active environment, unless it is conda's base, which is no place for a project.
active() {
    if [ -n "${VIRTUAL_ENV:-}" ] && [ -x "$VIRTUAL_ENV/bin/python" ]; then
        echo "$VIRTUAL_ENV/bin/python"
    elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != base ] && [ ! -d "$CONDA_PREFIX/condabin" ] \
         && [ -x "$CONDA_PREFIX/bin/python" ]; then
        echo "$CONDA_PREFIX/bin/python"
    fi
}

made_from() { cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" | cksum; }

# .venv is ready when it was installed from these files, with the test requirements if those are asked for.
ready() { [ -x "$VENV/bin/python" ] && case "$(cat "$STAMP" 2>/dev/null)" in "$(made_from) test") ;; "$(made_from)") [ -z "$1" ] ;; *) false ;; esac; }

# The first Python that is new enough. (A name on the path can be a shim without a Python behind it: ask each one.)
find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    say "error: no Python 3.11 or newer found (looked for python3.13, python3.12, python3.11, python3); install one, or activate an environment that has it"
    exit 2
}

# make_venv EXTRA: make .venv, or bring it up to what pyproject.toml and constraints.txt say now.
make_venv() {
    local extra="$1" python what
    case "$(cat "$STAMP" 2>/dev/null)" in *" test") extra=test ;; esac  # what was there stays
    rm -f "$STAMP"
    if [ ! -x "$VENV/bin/python" ] || [ -n "$(missing "$VENV/bin/python" "$extra" exact)" ]; then
        what="$ROOT${extra:+[$extra]}"
        if ! "$VENV/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python="$(find_python)"
            say "making .venv with $python; this downloads PyTorch and takes some minutes, once"
            if command -v uv >/dev/null; then
                uv venv --quiet --clear --seed --python "$python" "$VENV"
            else
                "$python" -m venv --clear "$VENV"
            fi || { say "error: $python could not make $VENV (on Debian and Ubuntu: install python3-venv)"; exit 1; }
        else
            say "updating .venv to pyproject.toml and constraints.txt"
        fi
        if command -v uv >/dev/null; then
            uv pip install --quiet --python "$VENV/bin/python" -e "$what" -c "$ROOT/constraints.txt"
        else
            "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -e "$what" -c "$ROOT/constraints.txt"
        fi || { say "error: the requirements could not be installed (see above); the same command tries again"; exit 1; }
    fi
    echo "$(made_from)${extra:+ $extra}" > "$STAMP"
}

extra=""
if [ "${1:-}" = --test ]; then
    extra=test
    shift
fi

python="$(active)"
if [ -n "$python" ]; then
    lacks="$(missing "$python" "")"
    if [ -n "$lacks" ]; then
        say "the active environment lacks $lacks; using the project's own .venv"
        python=""
    elif [ -n "$extra" ] && [ -n "$(missing "$python" test)" ]; then
        say "installing the test requirements into the active environment"
        (cd "$ROOT" && "$python" -m pip install --quiet --disable-pip-version-check -e ".[test]") || { say "error: that failed (see above)"; exit 1; }
    fi
fi
if [ -z "$python" ]; then
    python="$VENV/bin/python"
    if ! ready "$extra"; then
        case "${1:-}" in -h | --help)  # nobody should wait for PyTorch to read this
            sed -n '2,/^set /s/^#\( \{0,1\}\)//p' "$here"
            exit 0 ;;
        esac
        make_venv "$extra"
    fi
fi
say "using $python"

# -P: modules come from the project, not from the folder the caller stands in.
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
if [ -z "$extra" ]; then
    exec "$python" -P -m hippo_utils.run "$@"
fi
cd "$ROOT"
case "${1:-}" in  # -n 2: on two cores, half the time
    "") exec "$python" -P -m pytest -n 2 -m "not slow" ;;
    --all) shift; exec "$python" -P -m pytest -n 2 "$@" ;;
    *) exec "$python" -P -m pytest "$@" ;;
esac

#!/usr/bin/env bash
# One virtual environment per rival, under .rivals/ in the checkout (git-ignored).
#
#   benchmarks/rivals/setup.sh                  # all rivals
#   benchmarks/rivals/setup.sh lifestream       # one of them: lifestream | replay
#
# Re-running is cheap: an environment made from the same pins is kept.
# PYTHON picks the interpreter (default python3.11, which the pins were taken from).
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
home="$(cd "$here/../.." && pwd)/.rivals"
python="${PYTHON:-python3.11}"
# First and alone: a rival that picks its torch itself may pull gigabytes of CUDA.
torch="torch==2.13.0"

install() { # install NAME IMPORT_CHECK: the versions in NAME.txt, and proof that it imports
    local name="$1" check="$2" venv="$home/$1" pins
    pins="$torch $("$python" --version) $(cksum <"$here/$name.txt")"
    if [[ -f "$venv/pins" && "$(cat "$venv/pins")" == "$pins" ]]; then
        echo "$name: up to date"
        return
    fi
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --quiet "$torch"
    "$venv/bin/pip" install --quiet --quiet "$torch" -r "$here/$name.txt"
    (cd "$here" && "$venv/bin/python" -W ignore -c "$check")
    echo "$pins" >"$venv/pins"
    echo "$name: ready"
}

[[ $# -gt 0 ]] || set -- lifestream replay
mkdir -p "$home"
for name in "$@"; do
    case "$name" in
        lifestream)
            install lifestream \
                "import lifestream_standin; from ptls.preprocessing import PandasDataPreprocessor"
            ;;
        replay)
            install replay "from replay.nn.sequential import LengthBucketedQueryEncoder, SasRec"
            ;;
        *)
            echo "unknown rival '$name'; known: lifestream, replay" >&2
            exit 1
            ;;
    esac
done

#!/usr/bin/env bash
# One virtual environment per rival, under .rivals/ in the checkout (git-ignored).
#
#   benchmarks/rivals/setup.sh                  # all rivals
#   benchmarks/rivals/setup.sh lifestream       # one of them: lifestream | replay
#
# Re-running is cheap: an environment whose recorded pins equal the ones below is kept.
# PYTHON picks the interpreter (default python3; both rivals publish for 3.9 to 3.12).
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
home="$(cd "$here/../.." && pwd)/.rivals"
python="${PYTHON:-python3}"
# Before everything else: a rival that pulls torch by itself may pull gigabytes of CUDA.
torch="torch==2.13.0"

install() { # install NAME IMPORT_CHECK REQUIREMENT...
    local name="$1" check="$2"
    shift 2
    local venv="$home/$name" pins="$torch $*"
    if [[ -f "$venv/pins.txt" && "$(cat "$venv/pins.txt")" == "$pins" ]]; then
        echo "$name: up to date"
        return
    fi
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet "$torch"
    "$venv/bin/pip" install --quiet "$torch" "$@"
    (cd "$here" && "$venv/bin/python" -c "$check")
    "$venv/bin/pip" freeze >"$venv/freeze.txt"
    echo "$pins" >"$venv/pins.txt"
    echo "$name: ready"
}

lifestream() {
    install lifestream \
        "import lifestream_standin; from ptls.preprocessing import PandasDataPreprocessor" \
        "pytorch-lifestream==0.7.0" "dask[distributed]" pyspark onnxruntime
}

replay() {
    install replay \
        "import replay.nn.sequential.sasrec" \
        "replay-rec[torch]==0.22.0"
}

mkdir -p "$home"
for rival in "${@:-lifestream replay}"; do
    for name in $rival; do
        case "$name" in
            lifestream | replay) "$name" ;;
            *) echo "unknown rival '$name'; known: lifestream, replay" >&2; exit 1 ;;
        esac
    done
done

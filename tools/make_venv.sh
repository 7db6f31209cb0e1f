#!/usr/bin/env bash
# Makes a virtual environment that has a torch spikefuse can use: the one of PYTHON where that has one, else TORCH.
# usage: make_venv.sh PYTHON VENV TORCH
set -euo pipefail
python=$1 venv=$2 torch=$3

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "spikefuse needs Python 3.10 or newer; $python is $("$python" --version). Set PYTHON=..." >&2
    exit 1
}
has_torch() {
    "$1" -W ignore -c 'import re, sys, torch
sys.exit(tuple(map(int, re.match(r"(\d+)\.(\d+)", torch.__version__).groups())) < (2, 11))' 2>/dev/null
}
if [ ! -x "$venv/bin/python" ]; then
    share=()
    if has_torch "$python"; then share=(--system-site-packages); fi
    "$python" -m venv ${share[@]+"${share[@]}"} "$venv" || {
        rm -rf "$venv"
        echo "$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    }
fi
if ! has_torch "$venv/bin/python"; then
    echo "installing $torch into $venv"
    "$venv/bin/python" -m pip install --quiet "$torch"
fi

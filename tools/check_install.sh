#!/usr/bin/env bash
# Installs spikefuse in every supported way into throw-away environments, and uses each installation once.
# usage: check_install.sh [--python PYTHON] [--torch REQUIREMENT] [--cuda-torch REQUIREMENT] [--fresh] [--keep]
#   --torch       what to `pip install` where an environment should have a CPU torch (default torch==2.13.0)
#   --cuda-torch  also build the CUDA half, against this CUDA build of torch (gigabytes; needs nvcc)
#   --fresh       also install where there is no torch yet: pip then fetches --torch twice
#   --keep        leave the environments where they are, and say where
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=python3 torch=torch==2.13.0 cuda_torch="" fresh="" keep=""
while [ $# -gt 0 ]; do
    case $1 in
        --python) python=$2 && shift ;;
        --torch) torch=$2 && shift ;;
        --cuda-torch) cuda_torch=$2 && shift ;;
        --fresh) fresh=1 ;;
        --keep) keep=1 ;;
        *) sed -n '2,8s/^# //p' "$0" && exit 2 ;;
    esac
    shift
done
work=$(mktemp -d)
if [ -n "$keep" ]; then echo "environments in $work"; else trap 'rm -rf "$work"' EXIT; fi
unset SPIKEFUSE_CUDA SPIKEFUSE_SANITIZE TORCH_CUDA_ARCH_LIST PYTHONPATH
log=$work/log

new_source() { # a copy without builds, as a clone would be
    rm -rf "$work/source"
    mkdir "$work/source"
    tar -C "$root" --exclude=./.git --exclude=./.venv --exclude=./build --exclude='*.so' --exclude='*.egg-info' \
        --exclude='_build_info.json' -cf - . | tar -C "$work/source" -xf -
}
new_environment() { # NAME [REQUIREMENT]
    "$python" -m venv "$work/$1"
    "$work/$1/bin/python" -m pip install --quiet "${@:2}" numpy
}
case_number=0
install() { # NAME ENVIRONMENT PIP-ARGUMENTS...; the environment variables are the caller's
    case_number=$((case_number + 1))
    echo "case $case_number: $1"
    new_source
    rm -f "$log"
    (cd "$work/source" && "$work/$2/bin/python" -m pip install --log "$log" "${@:3}" > "$work/out" 2>&1) ||
        { cat "$work/out" && echo "case $case_number: FAILED" && exit 1; }
}
check() { # ENVIRONMENT CUDA_BUILT: loads the libraries, asks what they are, and runs an op
    (cd / && "$work/$1/bin/python" -W error::RuntimeWarning -c "
import torch
from spikefuse import _load, ops
report, info = _load.load(), _load.build_info()
assert info['cuda_built'] is $2, info
assert (report.cuda_library is not None) is $2, report
assert torch.__version__ == info['torch'], info
print('   ', info['torch'], '|', info['cuda_reason'])
words, spikes, _ = ops.pack_spikes(torch.eye(40))
assert spikes.item() == 40 and words.shape == (40, 2), (spikes, words.shape)
")
}
refused() { # ENVIRONMENT TEXT: SPIKEFUSE_CUDA=1 must fail and say TEXT
    new_source
    if (cd "$work/source" && SPIKEFUSE_CUDA=1 "$work/$1/bin/python" -m pip install . > "$work/out" 2>&1); then
        echo "SPIKEFUSE_CUDA=1 installed something, but should have failed" && exit 1
    fi
    grep -o "SPIKEFUSE_CUDA=1, but $2.*" "$work/out" | head -1 | sed 's/^/    refused: /' | grep . ||
        { cat "$work/out" && exit 1; }
}
torch_fetched() { # whether the last installation went for a torch
    grep -qE '(Collecting torch|(Processing|Downloading|Using cached) [^ ]*torch-)[0-9<>=!~]' "$log"
}
no_second_torch() {
    if torch_fetched; then echo "pip went for another torch" && exit 1; fi
}

new_environment cpu "$torch"
CUDA_HOME=$work/none install "plain 'pip install .', CPU torch, no nvcc" cpu .
check cpu False
no_second_torch
if command -v nvcc > /dev/null; then
    "$work/cpu/bin/python" -m pip install --quiet --upgrade pip
    install "plain 'pip install .', CPU torch, nvcc, newest pip" cpu --force-reinstall --no-deps .
    check cpu False
    no_second_torch
    refused cpu "torch .* is a build without CUDA"
else
    echo "no nvcc here: the case of nvcc beside a CPU torch is left out"
fi
"$work/cpu/bin/python" -m pip uninstall --quiet --yes spikefuse
install "offline, with what is there" cpu --no-index --no-build-isolation --no-deps .
check cpu False
"$work/cpu/bin/python" -m pip uninstall --quiet --yes spikefuse
install "editable" cpu --editable .
check cpu False
if [ -n "$fresh" ]; then
    new_environment fresh
    printf '%s\n' "$torch" > "$work/constraint"
    PIP_CONSTRAINT=$work/constraint install "no torch yet" fresh .
    check fresh False
    torch_fetched || { echo "pip fetched no torch, as far as its log tells" && exit 1; }
fi
if [ -n "$cuda_torch" ]; then
    new_environment cuda "$cuda_torch"
    CUDA_HOME=$work/none install "CUDA torch, no nvcc" cuda .
    check cuda False
    CUDA_HOME=$work/none refused cuda "no nvcc"
    install "CUDA torch and nvcc" cuda --force-reinstall --no-deps .
    check cuda True
    no_second_torch
    SPIKEFUSE_CUDA=0 install "CUDA torch and nvcc, but SPIKEFUSE_CUDA=0" cuda --force-reinstall --no-deps .
    check cuda False
else
    echo "no --cuda-torch given: building the CUDA half is left out"
fi
echo "$case_number cases passed"

#!/usr/bin/env bash
# Everything that needs a GPU, in one run of under ten minutes: builds, tests, sanitizers, benchmarks, profiles. Results
# and logs go to the folder OUT; each part goes on where an earlier one fails, and the last lines say which did.
# usage: OUT=folder [SPIKEFUSE_DATA=folder] [PARTS="build tests ..."] benchmarks/gpu_run.sh
set -uo pipefail
cd "$(dirname "$0")/.."
: "${OUT:?set OUT to a folder for results}"
PYTHON=${PYTHON:-python3}
parts=${PARTS:-build tests sanitize benchmarks profile}
failed=()
export MAX_JOBS=${MAX_JOBS:-16} PYTHONUNBUFFERED=1

part() { # name, seconds, command...
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    echo "== $name"
    timeout "$limit" "$@" > "$OUT/$name.log" 2>&1 || failed+=("$name")
    tail -n 4 "$OUT/$name.log"
    echo "== $name: $((SECONDS - start)) s"
}
wants() { [[ " $parts " == *" $1 "* ]]; }

nvidia-smi > "$OUT/nvidia-smi.log"
if wants build; then
    # the architecture of this machine only: the others are compiled in CI
    capability=$("$PYTHON" -c 'import torch; print("{}.{}".format(*torch.cuda.get_device_capability()))')
    TORCH_CUDA_ARCH_LIST=$capability SPIKEFUSE_CUDA=1 part build 240 \
        "$PYTHON" -m pip install --no-build-isolation --no-deps --editable .
fi
ops="tests/test_lif.py tests/test_masked_loss.py tests/test_packed.py tests/test_poisson.py tests/test_spike_matmul.py
     tests/test_lif_linear.py tests/test_surrogate.py tests/test_layers.py tests/test_compile.py tests/test_opcheck.py
     tests/test_robustness.py tests/test_online.py"
if wants tests; then
    # the emulator has run them everywhere else
    # shellcheck disable=SC2086
    SPIKEFUSE_EMULATED=0 part tests 240 "$PYTHON" -m pytest -q -p no:cacheprovider $ops
fi
if wants sanitize; then
    small="tests/test_lif.py tests/test_spike_matmul.py tests/test_lif_linear.py tests/test_packed.py
           tests/test_online.py"
    for tool in memcheck racecheck synccheck; do
        # shellcheck disable=SC2086
        SPIKEFUSE_EMULATED=0 part "$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$PYTHON" -m pytest -q -p no:cacheprovider $small \
            -k "cuda and (equals or dense_ones or wait_longer) and not 70001 and not every_option and not float64"
    done
fi
if wants benchmarks; then
    run() { part "$1" 150 "$PYTHON" "benchmarks/$2.py" --device cuda --json "$OUT/$1-cuda.json" "${@:3}"; }
    run lif lif
    run throughput throughput --all-peers
    run throughput-forward throughput --all-peers --forward
    run online-mnist online
    run online-fashion online --shape fashion --rounds 3
    run online-audiocoder online --shape audiocoder
    run spike-product spike_product
    run spike-product-small spike_product --shape 1500 784 196 --shape 6000 784 1024
    run open-neuromorphic open_neuromorphic
fi
if wants profile; then
    part ncu 100 ncu --clock-control none --set full --kernel-name 'regex:lif_|gather|mma|online' --launch-count 12 --csv \
        "$PYTHON" benchmarks/throughput.py --device cuda --shapes 784-1024-784 --rounds 1 --quick-peaks \
        --json "$OUT/profiled.json"
fi
echo "failed: ${failed[*]:-nothing}"
[ ${#failed[@]} -eq 0 ]

#!/usr/bin/env bash
# Everything that needs a GPU, the most valuable first: builds, tests, benchmarks, sanitizers, profiles. Results and logs
# go to the folder OUT. A part that fails does not stop the others, and all end SECONDS_GIVEN after the start, by default
# just under ten minutes; the last lines name the parts that failed, and those that had no time left.
# usage: OUT=folder [SPIKEFUSE_DATA=folder] [PARTS="build tests ..."] [SECONDS_GIVEN=580] benchmarks/gpu_run.sh
# Two halves of five minutes, in one checkout: SECONDS_GIVEN=290 with PARTS="build tests", then with
# PARTS="benchmarks sanitize profile".
set -uo pipefail
cd "$(dirname "$0")/.."
: "${OUT:?set OUT to a folder for results}"
PYTHON=${PYTHON:-python3}
parts=${PARTS:-build tests benchmarks sanitize profile}
given=${SECONDS_GIVEN:-580}
failed=() left_out=()
export MAX_JOBS=${MAX_JOBS:-16} PYTHONUNBUFFERED=1

part() { # name, seconds, command...
    local name=$1 limit=$2 start=$SECONDS left=$((given - SECONDS))
    shift 2
    if [ "$left" -lt 5 ]; then
        left_out+=("$name")
        return
    fi
    [ "$limit" -le "$left" ] || limit=$left
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
ops="tests/functional/test_lif.py tests/functional/test_lif_masked_loss.py tests/test_packed.py
     tests/functional/test_poisson.py tests/functional/test_spike_linear.py tests/functional/test_lif_linear.py
     tests/test_surrogate.py tests/test_layers.py tests/test_compile.py tests/test_ops.py tests/test_robustness.py
     tests/test_online.py"
if wants tests; then
    workers=()
    "$PYTHON" -c 'import xdist' 2> /dev/null && workers=(-n 9)
    # the emulator has run them everywhere else, and the CPU what is not of CUDA
    # shellcheck disable=SC2086
    SPIKEFUSE_EMULATED=0 part tests 240 "$PYTHON" -m pytest -q -p no:cacheprovider -p no:benchmark "${workers[@]}" \
        -k cuda $ops
fi
if wants benchmarks; then
    run() { part "$1" 100 "$PYTHON" "benchmarks/$2.py" --device cuda --json "$OUT/$1-cuda.json" "${@:3}"; }
    run lif lif
    for shape in 784-196-784 784-1024-784 58500-2048-196; do
        run "throughput-$shape" throughput --all-peers --shapes "$shape"
    done
    run online-mnist online
    run online-fashion online --shape fashion --rounds 3
    run online-audiocoder online --shape audiocoder
    run spike-product spike_product
    run spike-product-small spike_product --shape 1500 784 196 --shape 6000 784 1024
    run open-neuromorphic open_neuromorphic --sizes 512 2048 16384
    run throughput-forward throughput --all-peers --forward
fi
if wants sanitize; then
    small="tests/functional/test_lif.py tests/functional/test_spike_linear.py tests/functional/test_lif_linear.py
           tests/test_packed.py tests/test_online.py"
    for tool in memcheck racecheck synccheck; do
        # shellcheck disable=SC2086
        SPIKEFUSE_EMULATED=0 part "$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$PYTHON" -m pytest -q -p no:cacheprovider -p no:benchmark $small \
            -k "cuda and (equals or dense_ones or wait_longer) and not 70001 and not every_option and not float64"
    done
fi
if wants profile; then
    part ncu 100 ncu --clock-control none --set full --kernel-name 'regex:lif_|gather|mma|online' --launch-count 12 --csv \
        "$PYTHON" benchmarks/throughput.py --device cuda --shapes 784-1024-784 --rounds 1 --quick-peaks \
        --json "$OUT/profiled.json"
fi
echo "failed: ${failed[*]:-nothing}"
echo "no time left for: ${left_out[*]:-nothing}"
[ $((${#failed[@]} + ${#left_out[@]})) -eq 0 ]

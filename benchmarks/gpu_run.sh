#!/usr/bin/env bash
# Builds, tests, sanitizes and measures on a machine with an NVIDIA GPU, offline, within ten minutes.
# usage: benchmarks/gpu_run.sh OUT      logs and JSON go to OUT; a step that fails is noted and the rest still runs
set -uo pipefail
out=$(mkdir -p "${1:?usage: gpu_run.sh OUT}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
failed=()
step() { # NAME SECONDS COMMAND...
    echo "== $1"
    timeout "$2" "${@:3}" > "$out/$1.log" 2>&1 || failed+=("$1")
    tail -n 3 "$out/$1.log"
}
step machine 20 nvidia-smi
step build 300 env SPIKEFUSE_CUDA=1 TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-9.0}" \
    python3 -m pip install --no-build-isolation --no-deps .
# The installed package is tested, not the source folder.
tests=$(mktemp -d) && cp -r tests pyproject.toml benchmarks "$tests/" && cd "$tests" || exit 1
step tests 240 python3 -m pytest tests -q -p no:cacheprovider --ignore tests/test_packaging.py
for tool in memcheck racecheck synccheck; do
    step "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 1 \
        python3 -m pytest tests/test_packed.py tests/test_poisson.py -q -p no:cacheprovider -k cuda
done
step throughput 100 python3 benchmarks/throughput.py --shapes 784-196-784 784-1024-784 --json "$out/throughput.json"
echo "failed: ${failed[*]:-none}" | tee "$out/summary.txt"
[ ${#failed[@]} -eq 0 ]

#!/usr/bin/env bash
# Builds the CPU half, and the CUDA half for the emulator, with AddressSanitizer and UndefinedBehaviorSanitizer into
# folders of their own and runs tests on them, once for each instruction set of this processor.
# usage: sanitize.sh PYTHON FOLDER PYTEST-OPTIONS... TEST-FILES...   (as tests/..., the one that takes longest last)
set -euo pipefail
root=$PWD python=$PWD/$1 folder=$PWD/$2
options=() files=()
for argument in "${@:3}"; do
    case $argument in
        tests/*) files+=("$root/$argument") ;;
        *) options+=("$argument") ;;
    esac
done
sanitizers=address,undefined
mkdir -p "$folder"
SPIKEFUSE_SANITIZE=$sanitizers "$python" setup.py build --build-lib "$folder/lib" --build-temp "$folder/obj" \
    > "$folder/build.log" 2>&1 || { cat "$folder/build.log" && exit 1; }
"$python" tests/emulator/build.py "$sanitizers" # once, before the two runs that load it

# Python is not instrumented, so the runtime comes first, and with it libstdc++, whose throw it replaces. What Python
# and torch do not free at exit is not ours to report.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
LD_PRELOAD="$(c++ -print-file-name=libasan.so):$(c++ -print-file-name=libstdc++.so)"
export LD_PRELOAD
cd "$folder/lib" # the first place Python looks in
best=$("$python" -c 'from spikefuse import _load, ops
assert _load.build_info()["sanitize"], _load.FOLDER
print(ops.cpu_instruction_set())')
sets=(avx512 avx2 default)
while [ "${sets[0]}" != "$best" ]; do sets=("${sets[@]:1}"); done
run() { # INSTRUCTION-SET, whether with the CUDA kernels on the emulator, TEST-FILES...
    echo "sanitize: $1, emulated $2, ${*:3}"
    SPIKEFUSE_EMULATED=$2 SPIKEFUSE_ISA=$1 "$python" -m pytest --rootdir="$root" --config-file="$root/pyproject.toml" \
        -p no:cacheprovider --quiet ${options[@]+"${options[@]}"} "${@:3}"
}
# The emulator, which is the same for every instruction set, keeps one core busy: two runs side by side.
export OMP_WAIT_POLICY=passive
run "$best" 1 "${files[-1]}" > "$folder/last.log" 2>&1 &
last=$!
failed=0
if [ "${#files[@]}" -gt 1 ]; then
    run "$best" 1 "${files[@]::${#files[@]}-1}" || failed=1
fi
for instruction_set in "${sets[@]:1}"; do
    run "$instruction_set" 0 "${files[@]}" || failed=1
done
wait "$last" || failed=1
cat "$folder/last.log"
exit "$failed"

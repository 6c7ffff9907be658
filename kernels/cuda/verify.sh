#!/usr/bin/env bash
# All that needs the card and is right or wrong: the ops' tests, a fault of the device, the embedded model's row rule in every kind of numbers, and
# check-exact. Builds what is missing. Exit 0 only where all of it holds; the first that does not ends it.
#   kernels/cuda/verify.sh [folder of an installed CUDA toolkit]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cuda=${1:-/usr/local/cuda}
export LD_LIBRARY_PATH=$cuda/lib64:$cuda/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} PELAGIC_CUDA_LIBRARY=$PWD/build/native/pelagic_cuda.so

cmake -S kernels/cuda -B build/cuda -G Ninja -DCUDA_ROOT="$cuda"
cmake --build build/cuda
./pelagic build
cmake --build build/native-cmake --target pelagic_cuda_model_test

ctest --test-dir build/cuda --output-on-failure
for weights in bfloat16 fp8; do
  for latents in bfloat16 fp8; do
    echo "== the model with $weights weights and $latents latents"
    build/native-cmake/pelagic_cuda_model_test models/plankton "$weights" "$latents"
    ./pelagic check-exact --backend cuda --weight-dtype "$weights" --kv-dtype "$latents"
  done
done
echo 'all of it holds'

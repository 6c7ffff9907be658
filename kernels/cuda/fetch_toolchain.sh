#!/bin/sh
# Installs the compile-time part of CUDA 13.0 (nvcc, ptxas, headers, static runtime, cuBLASLt's and CUPTI's headers) from PyPI under .cache/cuda.
# Needs python3 with venv; no GPU, no root. Prints the root to give to CMake as CUDA_ROOT. A second run changes nothing.
# 13.0 because its binaries run under every driver from 580 on; the pins move together.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
home=${1:-"$here/../../.cache/cuda"}
mkdir -p "$home"
home=$(CDPATH= cd -- "$home" && pwd)
[ -x "$home/venv/bin/python" ] || python3 -m venv "$home/venv" >&2
# Without their dependencies: those would add the run-time libraries of the whole toolkit.
"$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
  nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-cupti==13.0.85 nvidia-cublas==13.0.2.14 >&2
"$home/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib") + "/nvidia/cu13")'

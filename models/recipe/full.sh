#!/bin/bash
# One full run in two commands, each of at most SECONDS plus two minutes for export and evaluation:
#   bash full.sh first SEED FOLDER RATE SECONDS               supervised cold start, its evaluation, GRPO
#   bash full.sh second SEED FOLDER RATE SECONDS COOL_DOWN    more GRPO, exports, evaluation of both
# STEPS: of the cold start (2200). Runs on several GPUs differ by CUDA_VISIBLE_DEVICES.
set -e
cd "$(dirname "$0")"
stage=$1 seed=$2 folder=$3 rate=$4 seconds=$5 cool=${6:-0}
mkdir -p "$folder"
report() { python3 evaluate.py --local "$1" --each 1000 --batch 1024 --failures 40 --json "$1.json" > "$1.log" 2>&1; }
if [ "$stage" = first ]; then
  python3 train.py --out "$folder/ckpt" --steps "${STEPS:-2200}" --seed "$seed" --workers 12 --eval-seconds 60
  python3 export.py "$folder/ckpt" --bf16 "$folder/sft-bf16"
  report "$folder/sft-bf16" & pid=$!  # while GRPO compiles
  python3 grpo.py "$folder/sft-bf16" --out "$folder/grpo" --seed "$seed" --rate "$rate" --stop-after $((seconds - SECONDS))
  wait $pid
elif [ "$stage" = second ]; then
  python3 grpo.py "$folder/sft-bf16" --out "$folder/grpo" --seed "$seed" --rate "$rate" --resume --stop-after "$seconds" --cool-down "$cool"
  python3 export.py "$folder/grpo" --bf16 "$folder/out-bf16" --fp8 "$folder/out-fp8"
  report "$folder/out-fp8" & pid=$!
  report "$folder/out-bf16"
  wait $pid
else
  echo "first or second?" >&2
  exit 2
fi

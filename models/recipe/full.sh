#!/bin/bash
# One full run in two commands:
#   bash full.sh first SEED FOLDER RATE SECONDS   cold start, its evaluation, GRPO until SECONDS after the start
#   bash full.sh second SEED FOLDER               evaluation of what GRPO made, the last supervised stage, exports, evaluation of both
# STEPS: of the cold start (2200), LAST: of the last stage (5000). Runs on several GPUs differ by CUDA_VISIBLE_DEVICES.
set -e
cd "$(dirname "$0")"
stage=$1 seed=$2 folder=$3 rate=$4 seconds=$5
mkdir -p "$folder"
report() { python3 evaluate.py --local "$1" --each 1000 --batch 1024 --failures 40 --json "$1.json" > "$1.log" 2>&1; }
if [ "$stage" = first ]; then
  python3 train.py --out "$folder/ckpt" --steps "${STEPS:-2200}" --seed "$seed" --workers 12 --eval-seconds 60
  python3 export.py "$folder/ckpt" --bf16 "$folder/sft-bf16"
  report "$folder/sft-bf16" & pid=$!  # while GRPO compiles
  python3 grpo.py "$folder/sft-bf16" --out "$folder/grpo" --seed "$seed" --rate "$rate" --eval-each 300 --stop-after $((seconds - SECONDS)) --cool-down 60
  wait $pid
elif [ "$stage" = second ]; then
  report "$folder/grpo" & pid=$!      # while training compiles
  python3 train.py --start "$folder/grpo" --out "$folder/last" --steps "${LAST:-5000}" --seed $((seed + 100)) --workers 12 --eval-seconds 120
  wait $pid
  python3 export.py "$folder/last" --bf16 "$folder/out-bf16" --fp8 "$folder/out-fp8"
  report "$folder/out-fp8" & pid=$!
  report "$folder/out-bf16"
  wait $pid
  python3 results.py "$folder" "$folder/run.json"
else
  echo "first or second?" >&2
  exit 2
fi

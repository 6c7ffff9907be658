#!/bin/bash
# One full run: bash full.sh first|second SEED FOLDER RATE SECONDS [COOL_DOWN]   (the GPU: CUDA_VISIBLE_DEVICES)
set -e
cd "$(dirname "$0")"
stage=$1 seed=$2 R=$3 rate=$4 seconds=$5 cool=${6:-0}
mkdir -p $R
log() { echo "== $SECONDS s: $*"; }
report() { python3 evaluate.py --local $1 --each 1000 --batch 1024 --failures 40 --json $1.json > $1.log 2>&1; }
if [ $stage = first ]; then
  python3 train.py --out $R/ckpt --steps ${STEPS:-2200} --seed $seed --workers 12 --eval-seconds 60
  log trained
  python3 export.py $R/ckpt --bf16 $R/sft-bf16
  cp $R/ckpt/state.json $R/sft.json
  report $R/sft-bf16 & pid=$!
  log GRPO
  python3 grpo.py $R/sft-bf16 --out $R/grpo --seed $seed --rate $rate --stop-after $((seconds - SECONDS))
  wait $pid
else
  python3 grpo.py $R/sft-bf16 --out $R/grpo --seed $seed --rate $rate --resume --stop-after $seconds --cool-down $cool
  python3 export.py $R/grpo --fp8 $R/out-fp8 --bf16 $R/out-bf16
  log exported
  report $R/out-fp8 & pid=$!
  report $R/out-bf16
  wait $pid
fi
log done
